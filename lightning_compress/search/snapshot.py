"""Snapshots of a search beside its journal, so that a long one resumes without replaying its first trials.

The journal is what counts: it alone says what was tried, and without a snapshot everything is told again from it. A
snapshot is taken for it only if the trials that it was told are those of the journal, word for word, and if it was
written by the same versions. It begins with the SHA-256 of the rest, without which nothing of it is read. It is a
pickle: go on in run folders of people you trust only.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path
from typing import Any

import cloudpickle

from lightning_compress.core.atomic_write import atomic_write
from lightning_compress.search.journal import Entry
from lightning_compress.search.searchers.searcher import Searcher

DIGEST = hashlib.sha256().digest_size
EVERY = 100  # trials between two snapshots, or a hundredth of all, as they grow with the search
PACKAGES = ("lightning-compress", "torch", "numpy", "stable-baselines3", "pymoo")


class Snapshots:
    """The snapshot of one search.

    Args:
        path: of the file.
        searcher: whose problem and objective are not written: they come with the search that goes on.
        finished: number -> entry of the search's journal, followed as it grows.
    """

    def __init__(self, path: Path, searcher: Searcher, finished: Mapping[int, Entry]) -> None:
        self.path, self.finished, self._due = path, finished, float(EVERY)
        problem = searcher.problem
        self._parts = (problem, problem.budget, problem.space, problem.dense, problem.predict, searcher.objective)
        self._versions = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
        self._digest, self._digested = hashlib.sha256(), 0

    def load(self, trials: int) -> Any:
        """Return the last snapshot; None if there is none, or it is not of the first ``trials`` trials."""
        try:
            content = self.path.read_bytes()
            if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
                return None
            file = io.BytesIO(content)
            file.seek(DIGEST)
            header, (told, asked) = pickle.load(file), pickle.load(file)
            if asked > trials or header != self._header(told):
                return None
            self._due = _next(told)
            return _Unpickler(file, self._parts).load()
        except Exception:  # whatever is wrong with a shortcut, the long way is right
            return None

    def save(self, state: Any, told: int, asked: int) -> None:
        """Replace the file; what cannot be pickled or written is left out, and told again when the search goes on.

        Args:
            state: what :meth:`load` gives back.
            told, asked: how many trials the searcher was told of, and asked for; those in flight are not told.
        """
        self._due = _next(told)
        content = io.BytesIO()
        try:
            pickle.dump(self._header(told), content)
            pickle.dump((told, asked), content)
            _Pickler(content, self._parts).dump(state)
            with atomic_write(self.path) as part, part.open("wb") as file:
                file.write(hashlib.sha256(content.getbuffer()).digest())
                file.write(content.getbuffer())
        except (pickle.PicklingError, TypeError, AttributeError, OSError):
            self._due = inf

    def due(self, told: int) -> bool:
        """Return whether enough trials were told since the last snapshot to pay for another."""
        return told >= self._due

    def _header(self, told: int) -> dict[str, str]:
        """Return what must match on load: versions, and what the searcher was told."""
        if told < self._digested:
            self._digest, self._digested = hashlib.sha256(), 0
        for number in range(self._digested, told):
            entry = self.finished[number]
            score = None if entry.score is None else entry.score.to_dict()
            self._digest.update(json.dumps([number, entry.indices, entry.key, score, entry.failure]).encode())
        self._digested = told
        return {**self._versions, "trials": self._digest.hexdigest()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # such as our own, where only its folder is on the path
        return "unknown"


def _next(told: int) -> int:
    return told + max(EVERY, told // 100)


class _Pickler(cloudpickle.Pickler):
    """Names some objects instead of writing them."""

    def __init__(self, file: io.BytesIO, parts: tuple[Any, ...]) -> None:
        super().__init__(file)
        self._numbers = {id(part): number for number, part in enumerate(parts)}

    def persistent_id(self, obj: Any) -> int | None:
        return self._numbers.get(id(obj))


class _Unpickler(pickle.Unpickler):
    """Puts the named objects in."""

    def __init__(self, file: io.BytesIO, parts: tuple[Any, ...]) -> None:
        super().__init__(file)
        self._parts = parts

    def persistent_load(self, pid: int) -> Any:
        return self._parts[pid]
