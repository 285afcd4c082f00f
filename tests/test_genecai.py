"""Test what GeneCAI promises beyond the searchers' contract."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from lightning_compress.core.errors import CompressError
from lightning_compress.search.budget_repair import scale, spend
from lightning_compress.search.objectives.genecai_score import GeneCAIScore
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.genecai import GeneCAI
from lightning_compress.search.searchers.random import Random
from lightning_compress.search.searchers.searcher import Searcher
from lightning_compress.search.searchers.uniform import Uniform
from lightning_compress.search.trial import Trial
from lightning_compress.testing import problems
from lightning_compress.testing.searchers import mean_accuracies, told

OBJECTIVE = AccuracyUnderBudget()


class Spent(Searcher):
    """Random search that fits its draws to the budget as GeneCAI does: what is left of the lead is the algorithm's."""

    def propose(self, number: int) -> tuple[int, ...]:
        rng, choices = np.random.default_rng([self.seed, number]), self.problem.space.choices
        drawn = [int(rng.integers(len(choice.values))) for choice in choices]
        return spend(self.problem.budget, scale(self.problem.budget, drawn), rng)

    def learn(self, trial: Trial, reward: float | None) -> None:
        pass


@pytest.mark.parametrize("surface", [problems.channels, problems.bits])
def test_it_beats_random_and_uniform_at_equal_evaluations(surface):
    makers = (GeneCAI, Random, Spent, Uniform)
    own, *others = mean_accuracies(makers, lambda seed: surface(layers=14, seed=seed), OBJECTIVE, seeds=3)
    assert own > max(others)


def test_it_starts_at_the_uncompressed_point_unless_the_budget_excludes_it():
    free, bound = problems.bits(layers=5, budget=1.0), problems.bits(layers=5)
    assert GeneCAI(free.problem, 0, OBJECTIVE).ask().indices == free.problem.space.largest
    assert GeneCAI(bound.problem, 0, OBJECTIVE).ask().plan == Uniform(bound.problem, 0, OBJECTIVE).ask().plan


def test_boundaries_are_trials_that_lower_one_choice_alone():
    problem = problems.bits(layers=5, budget=1.0)
    points = told(GeneCAI(problem.problem, 0, OBJECTIVE, probes=1), problem, 7)
    moved = [sum(a != b for a, b in zip(point, points[0], strict=True)) for point in points]
    assert moved[:6] == [0, 1, 1, 1, 1, 1]
    without = told(GeneCAI(problem.problem, 0, OBJECTIVE, probes=0), problem, 2)
    assert sum(a != b for a, b in zip(without[1], without[0], strict=True)) > 1


def test_genes_stay_within_their_boundaries():
    problem = problems.bits(layers=5, budget=1.0)
    searcher = GeneCAI(problem.problem, 0, OBJECTIVE, probes=4, tolerance=0.02)
    points = told(searcher, problem, 90)
    assert max(searcher.boundary.lowest) > 0
    for point in points[searcher.boundary.most + 1 :]:
        assert all(a >= b for a, b in zip(point, searcher.boundary.lowest, strict=True))


def test_with_its_own_score_and_no_budget_it_beats_random():
    problem = problems.channels(layers=8, budget=1.0, seed=1)
    dense = problem.problem.budget.limit
    found = {}
    for make in (partial(GeneCAI, tolerance=0.7, drop=5.0), Random):
        score = GeneCAIScore(cost="cost", threshold=0.9, dense_cost=dense)
        points = told(make(problem.problem, 0, score), problem, 100)
        found[make] = max(score(problem(problem.problem.space.plan(point))) for point in points)
    ours, random = found.values()
    assert ours > random > 0


def test_few_proposals_are_repeated():
    problem = problems.channels(layers=10)
    points = told(GeneCAI(problem.problem, 0, OBJECTIVE), problem, 100)
    assert len(set(points)) == len(points)


def test_the_elite_is_never_lost():
    problem = problems.channels(layers=6)
    searcher = GeneCAI(problem.problem, 0, OBJECTIVE, population=6, elite=1)
    tops = []
    for _ in range(120):
        trial = searcher.ask()
        searcher.tell(trial, problem(trial.plan))
        tops += [searcher.known[searcher.parents[0]]] if searcher.parents else []
    assert tops == sorted(tops)
    assert tops[-1] > tops[0]


def test_rejection_ends_although_every_first_individual_is_poor():
    problem = problems.channels(layers=4)
    searcher = GeneCAI(problem.problem, 0, OBJECTIVE, population=5, drop=-10.0, tries=3, probes=0)
    told(searcher, problem, 1 + 15)
    assert searcher.drawn == 15
    assert searcher.accepted == 0
    assert len(searcher.parents) == 5


def test_an_empty_population_is_refused():
    with pytest.raises(CompressError, match="population must be 1 or more, got 0"):
        GeneCAI(problems.bits(layers=2).problem, 0, OBJECTIVE, population=0)
