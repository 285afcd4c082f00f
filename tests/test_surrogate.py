"""The surrogate: its posterior against the normal equations, its first plan, and what it makes of few evaluations."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from lightning import Trainer

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.costs.weight_bits import WeightBits
from lightning_compress.core.errors import CompressError
from lightning_compress.core.json_record import read_record
from lightning_compress.core.least_error import least_error
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.evaluation import Evaluation
from lightning_compress.pipeline.planners.output_error import OutputError
from lightning_compress.pipeline.planners.search import Search
from lightning_compress.pipeline.planners.search_prior import ERRORS
from lightning_compress.pipeline.student import Student
from lightning_compress.search.journal import journal_name, read
from lightning_compress.search.objectives.n2n_reward import N2NReward
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.surrogate import EXPLOITED, NOISES, SPREADS, Surrogate, _Fit, _tables
from lightning_compress.surgery import measure
from lightning_compress.testing import problems
from lightning_compress.testing.searchers import told
from lightning_compress.testing.toys import PlainModule, ToyData

OBJECTIVE = AccuracyUnderBudget()
VALUE_ERRORS = {"channels": lambda value: (1 - value) ** 2, "weight_bits": lambda value: 4.0 ** (2 - value)}


def informed(surface, **settings):
    """Return a problem with the prior and the error tables of layers that all count alike, which they do not."""
    problem = surface(**settings)
    space, budget = problem.problem.space, problem.problem.budget
    errors = tuple(tuple(VALUE_ERRORS[c.knob](value) for value in c.values) for c in space.choices)
    return replace(problem, problem=replace(problem.problem, prior=least_error(errors, budget), errors=errors))


def accuracy(problem, point):
    return problem(problem.problem.space.plan(point)).metrics["val_acc"]


@pytest.mark.parametrize("surface", [problems.channels, problems.bits])
def test_twenty_evaluations_take_most_of_what_the_prior_leaves(surface):
    gained = []
    for seed in range(2):
        problem = informed(surface, layers=5, seed=seed)
        damages = [
            [weight * error for error in table]
            for weight, table in zip(problem.sensitivity, problem.problem.errors, strict=True)
        ]
        least = accuracy(problem, least_error(damages, problem.problem.budget))
        prior = accuracy(problem, problem.problem.prior)
        found = max(accuracy(problem, point) for point in told(Surrogate(problem.problem, 0, OBJECTIVE), problem, 20))
        gained.append((found - prior) / (least - prior))
    assert np.mean(gained) > 0.6


def test_the_posterior_is_that_of_the_normal_equations():
    rng = np.random.default_rng(0)
    tables = [np.linspace(1, 0, 6) ** 2 * scale for scale in (1.0, 2.0, 0.5)]
    heard = {tuple(int(i) for i in rng.integers(0, 6, 3)): float(rng.normal()) for _ in range(12)}
    fit = _Fit.of(heard, tables)
    points, rewards = zip(*sorted(heard.items()), strict=True)
    y = -np.array(rewards)
    f = np.array([[table[i] for table, i in zip(tables, point, strict=True)] for point in points])
    pairs = np.column_stack([np.sqrt(f[:, 0] * f[:, 1]), np.sqrt(f[:, 1] * f[:, 2])])
    design = np.column_stack([np.ones(len(y)), f.sum(1), f, pairs])
    scale, slope = y.std(), y.std() / f.sum(1).std()
    start = np.array([y.mean() - slope * f.sum(1).mean(), slope, 0, 0, 0, 0, 0])
    candidates = []
    for spread in SPREADS:
        for noise in NOISES:
            prior = np.diag([10 * scale, slope, *[spread * slope] * 3, *[spread * slope / 2] * 2]) ** 2
            covariance = np.linalg.inv(design.T @ design / (noise * scale) ** 2 + np.linalg.inv(prior))
            mean = start + covariance @ design.T @ (y - design @ start) / (noise * scale) ** 2
            candidates.append((mean, covariance))
    assert any(
        np.allclose(fit.mean, mean, atol=1e-6) and np.allclose(fit.root @ fit.root.T, covariance, atol=1e-6)
        for mean, covariance in candidates
    )


def test_tables_fall_to_zero_at_the_largest_value_and_never_rise():
    problem = problems.channels(layers=2)
    wavy = ((5.0, 1.0, 2.0, *[0.5] * 6, 0.25), (1e6, *[0.0] * 9))
    first, second = _tables(replace(problem.problem, errors=wavy))
    assert first.tolist() == [4.75, 1.75, 1.75, *[0.25] * 6, 0.0]
    assert second.tolist() == [10.0, *[0.0] * 9]
    assert all((np.diff(table) <= 0).all() for table in _tables(problem.problem))


def test_open_proposals_differ():
    problem = informed(problems.channels, layers=8)
    searcher = Surrogate(problem.problem, 0, OBJECTIVE)
    points = [searcher.ask().indices for _ in range(8)]
    assert points[0] == problem.problem.prior
    assert len(set(points)) == 8


@pytest.mark.parametrize("surface", [problems.channels, problems.bits])
def test_two_of_three_proposals_are_near_the_best_plan(surface):
    problem = informed(surface, layers=8)
    budget, searcher = problem.problem.budget, Surrogate(problem.problem, 0, OBJECTIVE)
    points = told(searcher, problem, 25)
    for number in range(searcher.warmup, 25):
        best = max(points[:number], key=lambda point: (accuracy(problem, point), point))
        lowered = sum(now < before for now, before in zip(points[number], best, strict=True))
        assert lowered <= 2 or number % EXPLOITED == 0
        assert budget.meets(problem.problem.space.plan(points[number]))
    assert len(set(points)) == 25


def test_cheaper_plans_are_tried_where_the_objective_weighs_the_cost():
    problem = informed(problems.bits, layers=6)
    budget, space = problem.problem.budget, problem.problem.space
    points = told(Surrogate(problem.problem, 0, N2NReward(cost="cost")), problem, 12)
    shares = [budget.cost(space.plan(point)) / budget.limit for point in points[1:]]
    assert min(shares) < 0.9
    assert max(shares) <= 1


def planned(folder, trials):
    """Return the points that a search of bits tried, which starts from a closed form's plan."""
    torch.manual_seed(0)
    module = PlainModule()
    example = torch.zeros(2, 1, 8, 8)
    profile = measure.measure(module.model, example)
    run = RunContext(ToyData(), module, profile, example, partial(Trainer, accelerator="cpu"), folder.parent, 0)
    planner = Search(
        cost=WeightBits(),
        budget=0.125,
        searcher=partial(Surrogate, warmup=2),
        trials=trials,
        prior=OutputError(cost=WeightBits(), budget=0.125, batches=1),
        objective=OBJECTIVE,
        evaluation=Evaluation(recalibration_batches=1),
    )
    bits = QuantizationAwareTraining(weight_bits=(2, 3, 4, 8), act_bits=(8,))
    planner.make_plan(Composition([bits], module.model, example), Student(copy.deepcopy(module)), run, folder)
    return [entry.indices for entry in read(folder / journal_name())]


def test_a_search_that_goes_on_has_the_tables_of_its_prior(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    points = planned(whole, 7)
    assert len(set(points)) >= 3  # few plans of so small a network spend the budget
    assert planned(parts, 4) == points[:4]
    assert planned(parts, 7) == points
    tables = read_record(whole / ERRORS)["errors"]
    assert {len(table) for table in tables} == {1, 4}  # of inputs, which have one width, and of weights
    assert all(table[0] > table[-1] for table in tables if len(table) > 1)


def test_a_warmup_of_nothing_is_refused():
    with pytest.raises(CompressError, match="warmup must be 1 or more"):
        Surrogate(problems.bits(layers=2).problem, 0, OBJECTIVE, warmup=0)
