"""Every trial ever told, on disk: one SQLite transaction a trial, so that kill -9 loses at most the open ones.

Each row has a digest of its own, so that a bit that changes on the disk is not read as another trial.

The journal also keeps the fingerprint of the search it belongs to, and a lock against a second process. The operating
system frees the lock of a killed process. Trials that are missing are evaluated again. What a searcher proposes depends
on the scores before, so to have a failed trial evaluated again (say, with more memory) delete it and all after it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from lightning_compress.core.digest import digest_of
from lightning_compress.core.errors import CompressError
from lightning_compress.core.interruption import check_interrupted
from lightning_compress.core.settings import difference
from lightning_compress.search.trial import Score

FORMAT = "2"
SCHEMA = {
    "meta": "key TEXT PRIMARY KEY, value TEXT NOT NULL",
    "trials": "number INTEGER PRIMARY KEY, indices TEXT NOT NULL, key TEXT NOT NULL, score TEXT, failure TEXT, "
    "seconds REAL NOT NULL, digest TEXT NOT NULL",
}
ROWS = "SELECT number, indices, key, score, failure, seconds, digest FROM trials ORDER BY number"
NO_SPACE = {"SQLITE_FULL", "SQLITE_IOERR", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_SHMSIZE"}
NO_ACCESS = {"SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_READONLY_DIRECTORY"}

LOCKED = {"SQLITE_BUSY", "SQLITE_LOCKED"}
UNREADABLE = (sqlite3.Error, UnicodeDecodeError)  # the latter of names in a damaged file


@dataclass(frozen=True)
class Entry:
    """A finished trial.

    Attributes:
        number, indices: of the trial.
        key: digest of what its plan materializes to.
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
            self._db = self._open(json.loads(json.dumps(dict(fingerprint))))
        except BaseException:
            self._lock.release()
            raise

    def _open(self, fingerprint: dict[str, Any]) -> sqlite3.Connection:
        db = None
        try:
            db = sqlite3.connect(self.path, isolation_level=None)
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and not tables >= SCHEMA.keys():
                raise _foreign(self.path, f"it is a database with the tables {sorted(tables)}")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            if not tables:  # all at once, so that no killed process leaves half a journal
                db.execute("BEGIN IMMEDIATE")
                for name, columns in SCHEMA.items():
                    db.execute(f"CREATE TABLE {name} ({columns})")
                text = json.dumps(fingerprint)
                rows = (("format", FORMAT), ("fingerprint", text), ("digest", digest_of(text)))
                db.executemany("INSERT INTO meta VALUES (?, ?)", rows)
                db.execute("COMMIT")
            _check_pages(db, self.path)
            self._check(dict(db.execute("SELECT key, value FROM meta").fetchall()), fingerprint)
        except UNREADABLE as error:
            if db is not None:
                db.close()
            raise _unusable(self.path, error) from error
        except BaseException:
            if db is not None:
                db.close()
            raise
        return db

    def _check(self, meta: Mapping[Any, Any], fingerprint: Mapping[str, Any]) -> None:
        if meta.get("format") != FORMAT:
            raise CompressError(
                f"journal: {str(self.path)!r} has format {meta.get('format', '1')}, and this version reads {FORMAT}; "
                f"go on with the version of lightning-compress that wrote it, or choose another run_dir"
            )
        text = meta.get("fingerprint", "")
        try:
            found = dict(json.loads(text))
            if digest_of(text) != meta.get("digest"):
                raise _foreign(self.path, "its fingerprint is damaged")
        except CompressError:
            raise
        except (TypeError, ValueError) as error:
            raise _foreign(self.path, f"its fingerprint is {text[:80]!r}") from error
        if changed := difference(found, fingerprint):
            raise CompressError(
                f"journal: {str(self.path)!r} belongs to another search: its {changed}. Choose another run_dir, or go "
                f"back to the old settings"
            )

    def append(self, entry: Entry) -> None:
        """Write one finished trial, for good, in the place of another of its number.

        Raises:
            Interrupted: a signal came while it was evaluated, and the evaluation swallowed it.
            CompressError: the disk is full or the file cannot be written; what was written before is safe.
        """
        score = None if entry.score is None else json.dumps(entry.score.to_dict())
        values = (entry.number, json.dumps(entry.indices), entry.key, score, entry.failure, float(entry.seconds))
        try:
            self._db.execute("INSERT OR REPLACE INTO trials VALUES (?, ?, ?, ?, ?, ?, ?)", (*values, digest_of(values)))
        except sqlite3.Error as error:
            raise CompressError(
                f"journal: trial {entry.number} could not be written to {str(self.path)!r} ({error}): {_remedy(error)}"
            ) from error
        check_interrupted()

    def __iter__(self) -> Iterator[Entry]:
        return iter(_entries(self._db, self.path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
        self._lock.release()


def journal_name(baseline: str = "") -> str:
    """Return the file of a stage's search, or of a baseline that was run beside it."""
    return f"trials-{baseline}.sqlite" if baseline else "trials.sqlite"


def read(path: str | Path) -> list[Entry]:
    """Return all finished trials of a journal by number, also while another process writes it.

    Raises:
        CompressError: the file cannot be opened, is no journal, or is damaged.
    """
    path = Path(path)
    if not path.is_file():
        return []
    try:
        # As a URI, for a folder's name may hold what URIs give a meaning to: ? # %
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    except sqlite3.Error as error:
        raise _unusable(path, error) from error
    with closing(db):
        try:
            _check_pages(db, path)
        except UNREADABLE as error:
            raise _unusable(path, error) from error
        return _entries(db, path)


def _check_pages(db: sqlite3.Connection, path: Path) -> None:
    """Raise unless SQLite finds its own structure whole.

    Raises:
        CompressError: it does not.
    """
    ((found, *_), *_) = db.execute("PRAGMA integrity_check(1)").fetchall()
    if found != "ok":
        raise _unusable(path, sqlite3.DatabaseError(found.replace("\n", " ")))


def _entries(db: sqlite3.Connection, path: Path) -> list[Entry]:
    try:
        rows = db.execute(ROWS).fetchall()
    except UNREADABLE as error:
        raise _unusable(path, error) from error
    return [_entry(row, path) for row in rows]


def _entry(row: tuple[Any, ...], path: Path) -> Entry:
    number, indices, key, score, failure, seconds, digest = row
    try:
        points = tuple(json.loads(indices))
        found = None if score is None else Score.from_dict(json.loads(score))
        if not all(isinstance(i, int) for i in points) or not isinstance(key, str) or not isfinite(seconds):
            raise ValueError("indices, key or seconds of another type")
        if found is not None and not all(isfinite(v) for v in (*found.metrics.values(), *found.costs.values())):
            raise ValueError("a score that is not finite")
        if (found is None) != isinstance(failure, str):
            raise ValueError("both a score and a failure, or neither")
        if digest != digest_of(row[:-1]):
            raise ValueError("its values are not those that were written")
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CompressError(
            f"journal: trial {number} in {str(path)!r} is damaged ({type(error).__name__}: {error}). Delete it, and it "
            f'is evaluated again: sqlite3 {str(path)!r} "DELETE FROM trials WHERE number = {number}"'
        ) from error
    return Entry(number, points, key, found, failure, seconds)


def _foreign(path: Path, what: str) -> CompressError:
    return CompressError(f"journal: {str(path)!r} is no journal of a search: {what}. Move it away to start anew")


def _unusable(path: Path, error: Exception) -> CompressError:
    return CompressError(f"journal: {str(path)!r} cannot be used ({error}): {_remedy(error)}")


def _remedy(error: Exception) -> str:
    name = getattr(error, "sqlite_errorname", "")
    if name in NO_SPACE:
        return "make room on the disk and give the same command again; what was written before is safe"
    if name in NO_ACCESS:
        return "check the permissions of the file and its folder, or choose another run_dir"
    if name in LOCKED:
        return "close the program that has it open, and give the same command again"
    return "it is damaged or no journal of a search: move it away to start anew"
