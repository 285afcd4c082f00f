"""Test what NSGA-II promises beyond the searchers' contract."""

from __future__ import annotations

from statistics import mean

import numpy as np
import pytest

from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.pareto import pareto_front
from lightning_compress.search.searchers.nsga2 import FAILED, NSGA2
from lightning_compress.search.searchers.random import Random
from lightning_compress.search.searchers.uniform import Uniform
from lightning_compress.testing import problems
from lightning_compress.testing.searchers import told

OBJECTIVE = AccuracyUnderBudget(weight=0)


def pairs(searcher, problem, trials: int) -> list[tuple[float, float]]:
    scores = [problem(problem.problem.space.plan(point)) for point in told(searcher, problem, trials)]
    return [(score.costs["cost"], score.metrics["val_acc"]) for score in scores]


def area(points: list[tuple[float, float]], limit: float) -> float:
    """Return what the front dominates, up to the limit of the cost: the hypervolume of two objectives, step by step."""
    front = [points[i] for i in pareto_front(points)]
    ends = [*(cost for cost, _ in front[1:]), limit]
    return sum((end - cost) * score for (cost, score), end in zip(front, ends, strict=True)) / limit


@pytest.mark.parametrize("surface", [problems.channels, problems.bits])
def test_front_and_best_are_above_those_of_random_and_uniform(surface):
    areas, bests = ({NSGA2: [], Random: [], Uniform: []} for _ in range(2))
    for seed in range(3):
        problem = surface(layers=14, seed=seed)
        for cls in areas:
            found = pairs(cls(problem.problem, seed, OBJECTIVE), problem, 100)
            areas[cls].append(area(found, problem.problem.budget.limit))
            bests[cls].append(max(score for _, score in found))
    for found in (areas, bests):
        assert mean(found[NSGA2]) > mean(found[Random])
        assert mean(found[NSGA2]) > mean(found[Uniform])


def test_it_hears_reward_and_share_of_the_dense_cost():
    problem = problems.bits(layers=5, budget=1.0)
    searcher = NSGA2(problem.problem, 0, OBJECTIVE, population=4)
    trials = [searcher.ask() for _ in range(4)]
    for trial in trials:
        searcher.tell(trial, problem(trial.plan))
    searcher.ask()
    population = searcher.algorithm.pop
    dense = problem.problem.budget.cost(problem.problem.space.plan(problem.problem.space.largest))
    for point, objectives in zip(population.get("X"), population.get("F"), strict=True):
        score = problem(problem.problem.space.plan(tuple(int(i) for i in point)))
        assert objectives == pytest.approx([-score.metrics["val_acc"], score.costs["cost"] / dense])


def test_the_first_proposal_of_a_free_search_is_the_uncompressed_point():
    problem = problems.bits(layers=5, budget=1.0)
    assert NSGA2(problem.problem, 0, OBJECTIVE).ask().indices == problem.problem.space.largest


def test_more_may_be_open_than_a_generation_holds_and_all_take_part():
    problem = problems.channels(layers=6)
    searcher = NSGA2(problem.problem, 0, OBJECTIVE, population=5)
    trials = [searcher.ask() for _ in range(12)]
    assert searcher.algorithm.n_iter == 1
    for trial in trials:
        searcher.tell(trial, problem(trial.plan))
    searcher.ask()
    assert searcher.algorithm.n_iter == 2
    assert len(searcher.algorithm.pop) == 12


def test_the_order_of_telling_does_not_matter_within_a_generation():
    problem = problems.channels(layers=6)
    after = []
    for order in (1, -1):
        searcher = NSGA2(problem.problem, 0, OBJECTIVE, population=5)
        for trial in [searcher.ask() for _ in range(5)][::order]:
            searcher.tell(trial, problem(trial.plan))
        after.append(searcher.ask().indices)
    assert after[0] == after[1]


def test_failed_trials_are_the_worst_and_finite():
    problem = problems.channels(layers=6)
    searcher = NSGA2(problem.problem, 0, OBJECTIVE, population=6)
    for number in range(30):
        trial = searcher.ask()
        searcher.tell(trial, None if number % 2 else problem(trial.plan))
    objectives = searcher.algorithm.pop.get("F")
    assert np.isfinite(objectives).all()
    assert (objectives[0] < FAILED).all()
