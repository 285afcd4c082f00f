"""kill -9, again and again: the search ends as if nothing had happened, and nothing finished is done twice.

Each run is a forked child that kills itself at a random moment: before or after an evaluation, or between two
instructions of SQLite while a trial is being written. At the latest, before its sixth trial.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

import lightning_compress.conf
from lightning_compress.core.plan import Plan
from lightning_compress.search.journal import Journal, read
from lightning_compress.search.loop import Best, search
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.trial import Score
from lightning_compress.testing import problems
from lightning_compress.testing.executors import Watched

SEARCHERS = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "searcher").glob("*.yaml"))
PROBLEM = problems.bits(layers=4)
IN_FLIGHT, KILLS = 3, 20
MOST = 5  # trials that a run begins: two or three are then finished, all if their networks are known
INSTRUCTIONS = 20  # of SQLite, to write one trial
TRIALS = MOST * (KILLS + 1) + 1  # so that the last kill comes before the end


class Mortal(Watched):
    """Kills the process at a moment that follows from the seed."""

    def live(self, seed: int, journal: Journal) -> None:
        """Draw the moment."""
        rng, self.begun = random.Random(seed), 0
        self.moment, self.left = rng.choice(["before", "after", "writing"]), rng.randint(1, 2)
        self.journal = journal
        if self.moment == "writing":
            self.left = rng.randint(1, 2 * INSTRUCTIONS)

    def dies(self, moment: str) -> int:
        """Come one step nearer to the end, if it is to come at this kind of moment."""
        self.left -= moment == self.moment
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    def key(self, plan: Plan) -> str:
        self.begun += 1
        if self.begun > MOST:
            os.kill(os.getpid(), signal.SIGKILL)
        self.dies("before")
        return super().key(plan)

    def __call__(self, plan: Plan) -> Score:
        score = super().__call__(plan)
        self.dies("after")
        # Set here, for reading the journal takes instructions too; the next are those that write this trial.
        self.journal._db.set_progress_handler(lambda: self.dies("writing"), 1)
        return score


def run(file: Path, path: Path, evaluate: Watched, seed: int | None = None) -> Best:
    searcher = instantiate(OmegaConf.load(file))(problem=PROBLEM.problem, seed=0, objective=AccuracyUnderBudget())
    with Journal(path, {}) as journal:
        if seed is not None:
            evaluate.live(seed, journal)
        return search(searcher, evaluate, journal, TRIALS, in_flight=IN_FLIGHT)


def killed(file: Path, path: Path, seed: int) -> bool:
    """Run in a child; whether it was killed."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    try:
        run(file, path, Mortal(path.parent, PROBLEM), seed)
    finally:
        os._exit(1)


@pytest.mark.parametrize("file", SEARCHERS, ids=lambda file: file.stem)
def test_twenty_kills_change_nothing(file, tmp_path):
    whole = run(file, tmp_path / "whole", PROBLEM)  # first, so that children need not import what it imports
    path, watched = tmp_path / "killed", Watched(tmp_path, PROBLEM)
    finished: set[str] = set()
    for seed in range(KILLS):
        before = len(watched.evaluations())
        assert killed(file, path, seed)
        assert not finished & {digest for digest, _ in watched.evaluations()[before:]}
        finished = {entry.key for entry in read(path)} if path.exists() else set()
    before = len(watched.evaluations())
    assert run(file, path, watched) == whole
    assert not finished & {digest for digest, _ in watched.evaluations()[before:]}
    assert [(e.number, e.indices) for e in read(path)] == [(e.number, e.indices) for e in read(tmp_path / "whole")]
