"""A journal of 100,000 trials, read and replayed, beside ``json.loads`` of its rows: ``python benchmarks/journal.py``.

The searcher is one that proposes always the same and learns nothing, so that the time is the journal's and the loop's.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from timing import medians

from lightning_compress.search.journal import Entry, Journal
from lightning_compress.search.loop import search
from lightning_compress.search.objective import AccuracyUnderBudget
from lightning_compress.search.searcher import Searcher
from lightning_compress.search.trial import Score, Trial
from lightning_compress.testing import problems

TRIALS, LAYERS, ROUNDS = 100_000, 20, 2
PROBLEM = problems.bits(layers=LAYERS)


class Constant(Searcher):
    """Proposes the cheapest plan."""

    def propose(self, number: int) -> tuple[int, ...]:
        return self.problem.space.smallest

    def learn(self, trial: Trial, reward: float | None) -> None:
        """Nothing to learn."""


def write(path: Path) -> None:
    score = PROBLEM(PROBLEM.problem.space.plan(PROBLEM.problem.space.smallest))
    with Journal(path, {}) as journal:
        journal._db.execute("BEGIN")  # one transaction for all: written one by one, they would take minutes
        for number in range(TRIALS):
            journal.append(Entry(number, PROBLEM.problem.space.smallest, f"{number:016x}", score, None, 1.5))
        journal._db.execute("COMMIT")


def parse(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        for indices, score in db.execute("SELECT indices, score FROM trials"):
            json.loads(indices)
            Score.from_dict(json.loads(score))


def read(path: Path) -> None:
    with Journal(path, {}) as journal:
        assert len(list(journal)) == TRIALS


def replay(path: Path) -> None:
    searcher = Constant(PROBLEM.problem, 0, AccuracyUnderBudget())
    with Journal(path, {}) as journal, redirect_stdout(StringIO()):
        search(searcher, PROBLEM, journal, TRIALS)


def main() -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trials.sqlite"
        write(path)
        jobs = {
            "json.loads of the rows": lambda: parse(path),
            "opened and read": lambda: read(path),
            "opened, read and replayed": lambda: replay(path),
        }
        times = medians(jobs, ROUNDS)
        base = times["json.loads of the rows"]
        print(f"{TRIALS:,} trials of {LAYERS} choices, {path.stat().st_size / 2**20:.0f} MiB")
        for name, seconds in times.items():
            print(f"{name:26}{seconds:8.2f} s{seconds / base:8.1f} x")


if __name__ == "__main__":
    main()
