"""A journal of 100,000 trials, read, replayed and drawn, beside ``json.loads``: ``python benchmarks/journal.py``.

The searcher is one that proposes always the same and learns nothing, so that the time is the journal's and the loop's.
Every tenth trial failed; costs and rewards of the others all differ, the best getting better all along. Then a journal
of GeneCAI's, which is told everything again, or goes on from the snapshot beside it; with ``--bred 100000`` it goes on
from there alone, and takes half an hour to make.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing, redirect_stdout
from io import StringIO
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from timing import medians

from lightning_compress.app.report.contents import Report
from lightning_compress.app.report.html import write_report
from lightning_compress.app.report.summary import search_of
from lightning_compress.core.plan import Plan
from lightning_compress.search.journal import Entry, Journal, journal_name
from lightning_compress.search.loop import search
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.genecai import GeneCAI
from lightning_compress.search.searchers.searcher import Searcher
from lightning_compress.search.trial import Score, Trial
from lightning_compress.testing import problems

TRIALS, LAYERS, ROUNDS = 100_000, 20, 2
BRED, MOST = 2_000, 10_000  # trials of GeneCAI, and how many are told again at most
PROBLEM = problems.bits(layers=LAYERS)
STAGE = {
    "objective": {"_target_": "lightning_compress.search.objectives.objective.AccuracyUnderBudget"},
    "cost": {"_target_": "lightning_compress.core.costs.packed_bytes.PackedBytes"},
}


class Constant(Searcher):
    """Proposes the cheapest plan."""

    def propose(self, number: int) -> tuple[int, ...]:
        return self.problem.space.smallest

    def learn(self, trial: Trial, reward: float | None) -> None:
        """Nothing to learn."""


def write(path: Path) -> None:
    generator = Random(0)
    with Journal(path, {}) as journal:
        journal._db.execute("BEGIN")  # one transaction for all: written one by one, they would take minutes
        for number in range(TRIALS):
            accuracy = generator.uniform(0.5, 0.9) + 0.1 * number / TRIALS
            metrics = {"val_acc": accuracy, "val_loss": 1 - accuracy}
            score = Score(metrics, {"packed_bytes": generator.uniform(1e5, 1e6)}) if number % 10 else None
            failure = None if score else "the training loss is not finite"
            journal.append(Entry(number, PROBLEM.problem.space.smallest, f"{number:016x}", score, failure, 1.5))
        journal._db.execute("COMMIT")


def parse(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        for indices, score in db.execute("SELECT indices, score FROM trials"):
            json.loads(indices)
            json.loads(score or "null")


def read(path: Path) -> None:
    with Journal(path, {}) as journal:
        assert len(list(journal)) == TRIALS


def replay(path: Path, make: Callable[..., Searcher] = Constant, trials: int = TRIALS, anew: bool = True) -> None:
    """Without its snapshot if it is to be told ``anew``."""
    if anew:
        path.with_suffix(".snapshot").unlink(missing_ok=True)
    searcher = make(PROBLEM.problem, 0, AccuracyUnderBudget())
    with Journal(path, {}) as journal, redirect_stdout(StringIO()):
        search(searcher, PROBLEM, journal, trials)


def draw(folder: Path) -> int:
    """Read the journal and write the report's page; its bytes."""
    (folder / "search.json").write_text(json.dumps({"limit": 1e6}))
    report = Report("A long search", (), Plan({}), searches=[search_of("bits", folder, STAGE)])
    write_report(folder / "report.html", report)
    return (folder / "report.html").stat().st_size


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--bred", type=int, default=BRED, help=f"trials of GeneCAI; up to {MOST:,} are told again too")
    bred = asked.parse_args().bred
    with TemporaryDirectory() as folder:
        path = Path(folder) / journal_name()
        write(path)
        jobs = {
            "json.loads of the rows": lambda: parse(path),
            "opened and read": lambda: read(path),
            "opened, read and replayed": lambda: replay(path),
            "read and drawn": lambda: draw(Path(folder)),
        }
        times = medians(jobs, ROUNDS)
        page = f"a page of {draw(Path(folder)) / 2**10:.0f} KiB"
        print(f"{TRIALS:,} trials of {LAYERS} choices, {path.stat().st_size / 2**20:.0f} MiB; {page}")
        show(times)
        path = Path(folder) / "bred.sqlite"
        replay(path, GeneCAI, bred)
        jobs = {"GeneCAI, told again": lambda: replay(path, GeneCAI, bred)} if bred <= MOST else {}
        jobs["GeneCAI, from its snapshot"] = lambda: replay(path, GeneCAI, bred, anew=False)
        times = medians(jobs, ROUNDS)
        print(f"{bred:,} trials; the snapshot has {path.with_suffix('.snapshot').stat().st_size / 2**20:.1f} MiB")
        show(times)


def show(times: dict[str, float]) -> None:
    base = next(iter(times.values()))
    for name, seconds in times.items():
        print(f"{name:26}{seconds:8.2f} s{seconds / base:8.2f} x", flush=True)


if __name__ == "__main__":
    main()
