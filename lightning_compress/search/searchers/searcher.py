"""Base class of searchers: ``ask()`` proposes a plan, ``tell()`` reports its score.

A searcher is a deterministic function of its problem, its seed and what it was told, so a journal of what it was told
is its checkpoint: resume is replay. Several proposals may be open at a time, and scores may come in any order.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import final

import numpy as np
import torch

from lightning_compress.core.errors import CompressError
from lightning_compress.core.kinds import HasKind
from lightning_compress.core.whole_numbers import check_whole
from lightning_compress.search.budget_repair import scale, spend
from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.problem import Problem
from lightning_compress.search.trial import Score, Trial

START = 2**32  # the step of the random numbers of first weights; trials count up from 0


class Searcher(HasKind, ABC):
    """Proposes plans that meet the budget.

    Args:
        problem: choices, budget and profiles.
        seed: of all its random numbers.
        objective: score -> reward.

    Attributes:
        binds: whether the budget excludes the largest point.
        spends: whether what a plan leaves of the budget is better spent.
    """

    def __init__(self, problem: Problem, seed: int, objective: Objective) -> None:
        self.problem, self.seed, self.objective = problem, seed, objective
        self.binds = not problem.budget.meets(problem.space.plan(problem.space.largest))
        self.spends = self.binds and not objective.weighs_cost
        self.asked = 0

    @final
    def ask(self) -> Trial:
        """Return the next trial."""
        number = self.asked
        with own_randomness(self.seed, 2 * number):
            indices = tuple(int(i) for i in self.propose(number))
        self.asked += 1
        return Trial(number, indices, self.problem.space)

    @final
    def tell(self, trial: Trial, score: Score | None) -> None:
        """Report the score of a trial; None if the evaluation failed."""
        with own_randomness(self.seed, 2 * trial.number + 1):
            self.learn(trial, None if score is None else self.objective.during(score, trial.number))

    def save(self, folder: Path) -> Path | None:
        """Write what was learned into a folder, for the start of another search; the file, or None if nothing was."""
        return None

    @final
    def fitted(self, wanted: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
        """Return the point nearest to what is wanted that meets the budget, and spends it where that is better."""
        point = scale(self.problem.budget, wanted)
        return spend(self.problem.budget, point, rng) if self.spends else point

    @abstractmethod
    def propose(self, number: int) -> tuple[int, ...]:
        """Return a point that meets the budget; first the prior, if there is one, as it is.

        Global random numbers are seeded for this searcher here.
        """

    @abstractmethod
    def learn(self, trial: Trial, reward: float | None) -> None:
        """Learn from the reward of an earlier proposal; None when it failed. Random numbers as in :meth:`propose`."""


def at_least(least: int, searcher: str, **settings: float) -> None:
    """Raise unless each of the settings is so much or more.

    Args:
        least: the smallest value.
        searcher: its name, for the error.
        **settings: the numbers to check, by the names that users give them under.

    Raises:
        CompressError: naming the setting and what it is.
    """
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
            raise CompressError(f"{searcher}: {name} must be at least {least}, got {value!r}")


def whole(least: int, searcher: str, **settings: int) -> None:
    """Raise unless each of the settings is a whole number, so much or more.

    Args:
        least: the smallest value.
        searcher: its name, for the error.
        **settings: the numbers to check, by the names that users give them under.

    Raises:
        CompressError: naming the setting and what it is.
    """
    for name, value in settings.items():
        check_whole(f"{searcher}: {name}", value, least)


def shares(searcher: str, **settings: float) -> None:
    """Raise unless each of the settings is from 0 to 1.

    Args:
        searcher: its name, for the error.
        **settings: the numbers to check, by the names that users give them under.

    Raises:
        CompressError: naming the setting and what it is.
    """
    at_least(0, searcher, **settings)
    for name, value in settings.items():
        if value > 1:
            raise CompressError(f"{searcher}: {name} must be at most 1, got {value!r}")


_kept = False


@contextmanager
def kept_randomness() -> Iterator[None]:
    """Put Python's, numpy's and torch's global generators back after; steps inside are then spared to do so one by one.

    Saving and restoring numpy's generator takes longer than many a step, which a long replay would feel.
    """
    global _kept
    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    before, _kept = _kept, True
    try:
        yield
    finally:
        _kept = before
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(cpu)


@contextmanager
def own_randomness(seed: int, step: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's global generators from ``(seed, step)`` inside, and put them back after.

    Libraries that a searcher drives draw from the global generators. Seeding at each step, rather than keeping a state,
    makes a step independent of how many numbers the steps before it drew.
    """
    global _kept
    before = _kept
    word = int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
    with nullcontext() if before else kept_randomness():
        _kept = False
        random.seed(word)
        np.random.seed(word)
        torch.random.default_generator.manual_seed(word)  # not manual_seed, which would also touch an accelerator's
        try:
            yield
        finally:
            _kept = before
