"""Contract suite of searchers. Subclass it, and give the fixture ``make``."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from statistics import mean

import numpy as np
import pytest
import torch

from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.problem import Problem
from lightning_compress.search.searchers.searcher import Searcher
from lightning_compress.testing import problems
from lightning_compress.testing.problems import Synthetic

Make = Callable[[Problem, int], Searcher]


def told(searcher: Searcher, problem: Synthetic, trials: int) -> list[tuple[int, ...]]:
    """Run some trials; the points that were proposed."""
    points = []
    for _ in range(trials):
        trial = searcher.ask()
        searcher.tell(trial, problem(trial.plan))
        points.append(trial.indices)
    return points


def best_accuracy(searcher: Searcher, problem: Synthetic, trials: int) -> float:
    """Run some trials; the highest accuracy of a plan that was proposed."""
    plans = [problem.problem.space.plan(point) for point in told(searcher, problem, trials)]
    return max(problem(plan).metrics["val_acc"] for plan in plans)


def mean_accuracies(
    makers: Iterable[Callable[[Problem, int, Objective], Searcher]],
    surface: Callable[[int], Synthetic],
    objective: Objective,
    *,
    seeds: int,
) -> list[float]:
    """Return for each searcher the best accuracy in 100 trials, on average over seeds of problem and searcher.

    Args:
        makers: ``(problem, seed, objective) -> searcher``.
        surface: ``seed -> problem``.
        objective: of all searchers.
        seeds: how many.
    """
    drawn = list(enumerate(map(surface, range(seeds))))
    return [mean(best_accuracy(make(of.problem, seed, objective), of, 100) for seed, of in drawn) for make in makers]


class SearcherContract:
    """Feasible, deterministic, replayable, and quiet about the global random numbers."""

    @pytest.fixture
    def make(self) -> Make:
        """Return ``(problem, seed) -> searcher``."""
        raise NotImplementedError

    @pytest.mark.parametrize("surface", [problems.channels, problems.bits, problems.removal])
    def test_every_proposal_is_on_the_grid_and_meets_the_budget(self, make, surface) -> None:
        problem = surface(layers=6)
        searcher = make(problem.problem, 0)
        for _ in range(30):
            trial = searcher.ask()
            assert problem.problem.space.indices(trial.plan) == trial.indices
            assert problem.problem.budget.meets(trial.plan)
            searcher.tell(trial, problem(trial.plan))

    def test_the_same_seed_proposes_the_same_and_replay_goes_on_the_same(self, make) -> None:
        problem = problems.bits(layers=5)
        whole = told(make(problem.problem, 3), problem, 45)
        again = make(problem.problem, 3)
        assert told(again, problem, 30) == whole[:30]
        np.random.rand()
        torch.rand(1)
        assert told(again, problem, 15) == whole[30:]

    def test_open_and_failed_trials_in_any_order(self, make) -> None:
        problem = problems.channels(layers=4)
        searcher = make(problem.problem, 0)
        trials = [searcher.ask() for _ in range(25)]
        for trial in reversed(trials):
            searcher.tell(trial, None if trial.number % 3 == 0 else problem(trial.plan))
        assert problem.problem.budget.meets(searcher.ask().plan)

    @pytest.mark.parametrize("layers", [0, 1])
    def test_nothing_and_one_thing_to_choose(self, make, layers) -> None:
        problem = problems.bits(layers=layers)
        assert all(len(point) == layers for point in told(make(problem.problem, 0), problem, 25))

    @pytest.mark.parametrize("surface", [problems.channels, problems.bits, problems.removal])
    def test_a_prior_changes_no_rule(self, make, surface) -> None:
        problem = surface(layers=5)
        prior = problem.problem.budget.project(problem.problem.space.largest)
        informed = replace(problem.problem, prior=prior)
        points = told(make(informed, 1), problem, 20)
        assert all(informed.budget.meets(informed.space.plan(point)) for point in points)
        assert told(make(informed, 1), problem, 20) == points

    @pytest.mark.parametrize("surface", [problems.channels, problems.bits, problems.removal])
    @pytest.mark.parametrize("seed", range(3))
    def test_the_first_trial_is_the_prior(self, make, surface, seed) -> None:
        problem = surface(layers=5).problem
        drawn = np.random.default_rng(seed).integers([len(choice.values) for choice in problem.space.choices])
        prior = problem.budget.project(drawn.tolist())
        assert make(replace(problem, prior=prior), seed).ask().indices == prior

    def test_global_random_numbers_stay_as_they_were(self, make) -> None:
        problem = problems.bits(layers=3)
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        expected = random.random(), np.random.rand(), float(torch.rand(()))
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        told(make(problem.problem, 0), problem, 25)
        assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected
