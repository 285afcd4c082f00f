"""Test what the adapter of Optuna promises beyond the searchers' contract."""

from __future__ import annotations

import sys

import optuna
import pytest

from lightning_compress.core.errors import CompressError
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.optuna import OptunaSearcher
from lightning_compress.search.searchers.random import Random
from lightning_compress.search.searchers.uniform import Uniform
from lightning_compress.testing import problems
from lightning_compress.testing.searchers import told

OBJECTIVE = AccuracyUnderBudget()


@pytest.mark.parametrize("sampler", ["RandomSampler", "NSGAIISampler", "QMCSampler"])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_other_samplers_meet_the_budget_and_are_replayed(sampler):
    problem = problems.channels(layers=5)
    runs = [told(OptunaSearcher(problem.problem, 2, OBJECTIVE, sampler), problem, 15) for _ in range(2)]
    assert runs[0] == runs[1]
    assert all(problem.problem.budget.meets(problem.problem.space.plan(point)) for point in runs[0])


def test_it_starts_with_the_uniform_plan_and_its_rest():
    problem = problems.bits(layers=6)
    first = OptunaSearcher(problem.problem, 0, OBJECTIVE).ask().indices
    uniform = Uniform(problem.problem, 0, OBJECTIVE).ask().indices
    assert all(a >= b for a, b in zip(first, uniform, strict=True))


def test_the_sampler_hears_rewards_and_failures():
    problem = problems.bits(layers=3)
    searcher = OptunaSearcher(problem.problem, 0, OBJECTIVE)
    trials = [searcher.ask() for _ in range(2)]
    searcher.tell(trials[0], problem(trials[0].plan))
    searcher.tell(trials[1], None)
    heard = searcher.study.trials
    assert [t.state.name for t in heard] == ["COMPLETE", "FAIL"]
    assert heard[0].value == OBJECTIVE(problem(trials[0].plan))


def test_settings_reach_the_sampler():
    problem = problems.bits(layers=3)
    searcher = OptunaSearcher(problem.problem, 0, OBJECTIVE, "TPESampler", {"n_startup_trials": 3})
    assert searcher.study.sampler._n_startup_trials == 3


def test_tpe_beats_random_at_equal_evaluations():
    problem = problems.channels(layers=14, seed=1)
    found = {}
    for cls in (OptunaSearcher, Random):
        points = told(cls(problem.problem, 1, OBJECTIVE), problem, 60)
        found[cls] = max(problem(problem.problem.space.plan(p)).metrics["val_acc"] for p in points)
    assert found[OptunaSearcher] > found[Random]


@pytest.mark.parametrize(
    ("sampler", "settings", "message"),
    [
        ("TPESample", {}, "no sampler 'TPESample'; did you mean 'TPESampler'"),
        ("TPESampler", {"startup": 3}, "refuses the settings .*startup"),
    ],
)
def test_a_wrong_sampler_is_named(sampler, settings, message):
    with pytest.raises(CompressError, match=message):
        OptunaSearcher(problems.bits(layers=2).problem, 0, OBJECTIVE, sampler, settings)


def test_without_optuna_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(CompressError, match=r"pip install 'lightning-compress\[optuna\]'"):
        OptunaSearcher(problems.bits(layers=2).problem, 0, OBJECTIVE)


@pytest.mark.parametrize("sampler", ["BruteForceSampler", "GridSampler"])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_sampler_that_has_suggested_everything_repeats_itself(sampler):
    problem = problems.bits(layers=1, budget=1.0)
    grid = {f"{c.layer}.{c.knob}": list(range(len(c.values))) for c in problem.problem.space.choices}
    settings = {"search_space": grid} if sampler == "GridSampler" else {}
    points = told(OptunaSearcher(problem.problem, 0, OBJECTIVE, sampler, settings), problem, 20)
    assert set(points) == {(i,) for i in range(7)}
    assert points == told(OptunaSearcher(problem.problem, 0, OBJECTIVE, sampler, settings), problem, 20)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_sampler_without_a_seed_of_its_own():
    problem = problems.bits(layers=3, budget=1.0)

    def points():
        settings = {"fixed_params": {"conv0.weight_bits": 2}, "base_sampler": optuna.samplers.RandomSampler(seed=1)}
        return told(OptunaSearcher(problem.problem, 0, OBJECTIVE, "PartialFixedSampler", settings), problem, 8)

    assert points() == points()
    assert {point[0] for point in points()[1:]} == {2}
