"""Test what the greedy exchange promises beyond the searchers' contract."""

from __future__ import annotations

from itertools import product

import pytest

from lightning_compress.core.budget import Budget
from lightning_compress.core.profile import Profile
from lightning_compress.core.space import Choice, Space
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.problem import Problem
from lightning_compress.search.searchers.greedy import Greedy
from lightning_compress.search.searchers.random import Random
from lightning_compress.search.searchers.uniform import Uniform
from lightning_compress.search.trial import Score
from lightning_compress.testing import problems
from lightning_compress.testing.searchers import mean_accuracies

OBJECTIVE = AccuracyUnderBudget(weight=0)


@pytest.mark.parametrize("surface", [problems.channels, problems.bits])
def test_it_beats_random_and_uniform_at_equal_evaluations(surface):
    makers = (Greedy, Random, Uniform)
    own, *others = mean_accuracies(makers, lambda seed: surface(layers=14, seed=seed), OBJECTIVE, seeds=3)
    assert own > max(others)


def linear(weights: tuple[float, ...], limit: int) -> tuple[Problem, dict[str, float]]:
    """Each step of a choice costs 1 and is worth its weight: a knapsack that the greedy rule solves exactly."""
    space = Space(tuple(Choice(f"l{i}", "x", tuple(range(5))) for i in range(len(weights))))
    budget = Budget(lambda plan: sum(plan.knob("x").values()), limit, space)
    return Problem(budget, Profile({}), lambda plan: Profile({})), {f"l{i}": w for i, w in enumerate(weights)}


def test_it_solves_a_linear_problem():
    problem, worth = linear((0.5, 0.1, 0.3, 0.2), 7)

    def value(plan) -> float:
        return sum(worth[layer] * number for layer, number in plan.knob("x").items())

    searcher = Greedy(problem, 0, OBJECTIVE)
    found = []
    for _ in range(25):
        trial = searcher.ask()
        found.append(value(trial.plan))
        searcher.tell(trial, Score({"val_acc": value(trial.plan)}, {}))
    plans = [problem.space.plan(point) for point in product(range(5), repeat=4)]
    assert max(found) == pytest.approx(max(value(plan) for plan in plans if problem.budget.meets(plan)))


def test_slopes_are_what_one_step_down_loses():
    problem, worth = linear((0.5, 0.1, 0.3), 6)
    searcher = Greedy(problem, 0, OBJECTIVE)
    for _ in range(4):  # the start and one step down of each choice
        trial = searcher.ask()
        searcher.tell(trial, Score({"val_acc": sum(worth[k] * v for k, v in trial.plan.knob("x").items())}, {}))
    assert searcher.slopes == pytest.approx({0: 0.5, 1: 0.1, 2: 0.3})
    # The next proposal takes from the least sensitive and gives to the most sensitive.
    start = searcher.point
    assert [b - a for a, b in zip(start, searcher.ask().indices, strict=True)] == [1, -1, 0]


def test_what_was_heard_corrects_the_slopes():
    problem, worth = linear((0.5, 0.1, 0.3), 6)
    searcher = Greedy(problem, 0, OBJECTIVE)
    for _ in range(4):
        trial = searcher.ask()
        searcher.tell(trial, Score({"val_acc": sum(worth[k] * v for k, v in trial.plan.knob("x").items())}, {}))
    trial, before = searcher.ask(), searcher.reward
    searcher.tell(trial, Score({"val_acc": before}, {}))  # 0.4 was predicted, nothing was gained
    assert searcher.slopes == pytest.approx({0: 0.3, 1: 0.3, 2: 0.3})


def test_when_nothing_promises_a_gain_it_goes_on_with_new_points():
    problem, worth = linear((0.5, 0.1, 0.3), 6)
    searcher = Greedy(problem, 0, OBJECTIVE)
    points = []
    for _ in range(30):
        trial = searcher.ask()
        points.append(trial.indices)
        searcher.tell(trial, Score({"val_acc": sum(worth[k] * v for k, v in trial.plan.knob("x").items())}, {}))
    assert searcher.point == (4, 0, 2)
    assert len(set(points)) > 7  # start, three probes, two exchanges and one more round of probes at least
