"""Every trial ever told, on disk: one SQLite transaction a trial, so that kill -9 loses at most the open one.

The journal also keeps the fingerprint of the search it belongs to, and a lock against a second process. The operating
system frees the lock of a killed process.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from lightning_compress.errors import CompressError
from lightning_compress.search.trial import Score

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS trials (
    number INTEGER PRIMARY KEY, indices TEXT NOT NULL, key TEXT NOT NULL,
    score TEXT, failure TEXT, seconds REAL NOT NULL
);
"""


@dataclass(frozen=True)
class Entry:
    """A finished trial.

    Attributes:
        number, indices: of the trial.
        key: digest of what its plan materialises to.
        score: None when it failed.
        failure: why it failed, or None.
        seconds: that the evaluation took; 0 for a cached score.
    """

    number: int
    indices: tuple[int, ...]
    key: str
    score: Score | None
    failure: str | None
    seconds: float


class Journal:
    """Finished trials of one search.

    Args:
        path: of the SQLite file, made when missing.
        fingerprint: what the search depends on, as plain types; a file of another search is refused.

    Raises:
        CompressError: the file cannot be written or is no journal, is in use by another process, or belongs to another
            search.
    """

    def __init__(self, path: str | Path, fingerprint: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._lock = FileLock(f"{self.path}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise CompressError(
                f"journal: another process is searching in {str(self.path.parent)!r}; wait, or choose another run_dir"
            ) from None
        except OSError as error:
            raise CompressError(f"journal: cannot write to {str(self.path.parent)!r} ({error.strerror})") from error
        try:
            self._open(json.loads(json.dumps(dict(fingerprint))))
        except BaseException:
            self._lock.release()
            raise

    def _open(self, fingerprint: dict[str, Any]) -> None:
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(SCHEMA)
            row = self._db.execute("SELECT value FROM meta WHERE key = 'fingerprint'").fetchone()
            if row is None:
                self._db.execute("INSERT INTO meta VALUES ('fingerprint', ?)", (json.dumps(fingerprint),))
        except sqlite3.Error as error:
            raise CompressError(f"journal: {str(self.path)!r} cannot be used ({error}); move it away") from error
        found = fingerprint if row is None else json.loads(row[0])
        if found != fingerprint:
            field = next(k for k in {**found, **fingerprint} if found.get(k) != fingerprint.get(k))
            self._db.close()
            raise CompressError(
                f"journal: {str(self.path)!r} belongs to another search: its {field} is {found.get(field)!r}, now "
                f"it is {fingerprint.get(field)!r}. Choose another run_dir, or go back to the old settings"
            )

    def append(self, entry: Entry) -> None:
        """Write one finished trial, for good.

        Raises:
            CompressError: the disk is full or the file cannot be written; what was written before is safe.
        """
        score = None if entry.score is None else json.dumps(entry.score.to_dict())
        values = (entry.number, json.dumps(entry.indices), entry.key, score, entry.failure, entry.seconds)
        try:
            self._db.execute("INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?)", values)
        except sqlite3.Error as error:
            raise CompressError(
                f"journal: trial {entry.number} could not be written to {str(self.path)!r} ({error})"
            ) from error

    def __iter__(self) -> Iterator[Entry]:
        yield from read(self._db)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
        self._lock.release()


def read(db: sqlite3.Connection | str | Path) -> list[Entry]:
    """All finished trials of a journal, by number; also while another process writes it."""
    if not isinstance(db, sqlite3.Connection):
        if not Path(db).is_file():
            return []
        db = sqlite3.connect(f"file:{db}?mode=ro", uri=True)
    rows = db.execute("SELECT number, indices, key, score, failure, seconds FROM trials ORDER BY number").fetchall()
    return [
        Entry(number, tuple(json.loads(indices)), key, score and Score.from_dict(json.loads(score)), failure, seconds)
        for number, indices, key, score, failure, seconds in rows
    ]
