"""Sensitivities and the allocation made from them, on problems of pure arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.core.errors import CompressError, TrialFailedError
from lightning_compress.search.journal import Journal
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.sensitivity import Sensitivity, allocate, measure
from lightning_compress.testing.problems import KEEP, channels

OBJECTIVE = AccuracyUnderBudget(weight=0)


class Counted:
    """The arithmetic evaluator, counting; plans for which ``fails`` holds cannot be scored."""

    def __init__(self, synthetic, fails=lambda plan: False):
        self.synthetic, self.fails, self.calls = synthetic, fails, 0

    def key(self, plan):
        return self.synthetic.key(plan)

    def __call__(self, plan):
        self.calls += 1
        if self.fails(plan):
            raise TrialFailedError("the loss is not finite")
        return self.synthetic(plan)


def measured(synthetic, folder, values=9, evaluate=None):
    with Journal(folder / "sensitivity.sqlite", {}) as journal:
        return measure(synthetic.problem.space, evaluate or Counted(synthetic), journal, OBJECTIVE, values)


def test_drops_are_those_of_one_layer_alone(tmp_path):
    synthetic = channels(4)
    found = measured(synthetic, tmp_path)
    for choice, sensitivity, weight in zip(
        synthetic.problem.space.choices, found, synthetic.sensitivity, strict=True
    ):  # the accuracy is exp(- weight (1 - keep)^2)
        expected = [1 - np.exp(-weight * (1 - keep) ** 2) for keep in KEEP]
        assert sensitivity.layer == choice.layer
        assert sensitivity.drops == pytest.approx(expected)


def test_values_between_lie_on_straight_lines(tmp_path):
    (found,) = measured(channels(1), tmp_path, values=1)
    assert found.drops == pytest.approx(np.linspace(found.drops[0], 0, len(KEEP)))


def test_a_second_call_evaluates_nothing_and_a_killed_one_goes_on(tmp_path):
    synthetic = channels(3)
    counted = Counted(synthetic)
    first = measured(synthetic, tmp_path, 2, counted)
    assert counted.calls == 1 + 3 * 2
    assert measured(synthetic, tmp_path, 2, counted) == first
    assert counted.calls == 1 + 3 * 2
    killed = Counted(synthetic, lambda plan: killed.calls == 4 and stop())

    def stop():
        raise KeyboardInterrupt

    (tmp_path / "killed").mkdir()
    with pytest.raises(KeyboardInterrupt):
        measured(synthetic, tmp_path / "killed", 2, killed)
    again = Counted(synthetic)
    assert measured(synthetic, tmp_path / "killed", 2, again) == first
    assert again.calls == 1 + 3 * 2 - 3


def test_a_score_that_is_not_finite_is_a_failure_also_in_the_journal(tmp_path):
    synthetic = channels(2)

    class Nan(Counted):
        def __call__(self, plan):
            score = super().__call__(plan)
            if plan.get("conv0", "channels") == KEEP[0]:
                return replace(score, metrics={"val_acc": float("nan")})
            return score

    first = measured(synthetic, tmp_path, 3, Nan(synthetic))
    assert first[0].drops[0] == np.inf
    assert measured(synthetic, tmp_path, 3, Nan(synthetic)) == first  # read again


def test_what_cannot_be_scored_is_infinitely_sensitive(tmp_path):
    synthetic = channels(2)
    fails = Counted(synthetic, lambda plan: plan.get("conv0", "channels") == KEEP[0])
    found = measured(synthetic, tmp_path, 3, fails)
    assert np.isinf(found[0].drops[0])
    assert np.isfinite(found[0].drops[1:]).all()
    assert np.isfinite(found[1].mean)
    point = allocate(synthetic.problem.budget, found)
    assert point[0] > 0


def test_a_network_that_cannot_be_scored_at_all_is_an_error(tmp_path):
    with pytest.raises(CompressError, match="the network as it is cannot be scored: the loss is not finite"):
        measured(channels(2), tmp_path, 2, Counted(channels(2), lambda plan: True))


def test_fewer_than_one_value_is_an_error(tmp_path):
    with pytest.raises(CompressError, match="values must be 1 or more, got 0"):
        measured(channels(2), tmp_path, 0)


curves = st.lists(st.floats(0, 1), min_size=9, max_size=9).map(lambda d: (*sorted(d, reverse=True), 0.0))


@settings(max_examples=50, deadline=None)
@given(st.lists(curves, min_size=5, max_size=5), st.floats(0.1, 1.2))
def test_the_allocation_meets_the_budget_and_leaves_no_step_unused(drops, share):
    problem = channels(5, budget=share).problem
    point = allocate(problem.budget, [Sensitivity(f"conv{i}", d) for i, d in enumerate(drops)])
    assert problem.budget.meets(problem.space.plan(point))
    for i, index in enumerate(point):
        if index < problem.space.largest[i]:
            assert not problem.budget.meets(problem.space.plan((*point[:i], index + 1, *point[i + 1 :])))


def test_a_more_sensitive_layer_of_the_same_kind_keeps_more():
    problem = channels(3, budget=0.5).problem  # conv1 and conv2 differ in their sensitivity here
    steep, flat = tuple(np.linspace(1, 0, 10)), tuple(np.linspace(0.1, 0, 10))
    for curve_1, curve_2 in ((steep, flat), (flat, steep)):
        point = allocate(
            problem.budget, [Sensitivity("conv0", flat), Sensitivity("conv1", curve_1), Sensitivity("conv2", curve_2)]
        )
        assert (point[1] > point[2]) == (curve_1 is steep)


@pytest.mark.parametrize("seed", range(5))
def test_better_than_the_same_ratio_everywhere_where_sensitivities_differ(tmp_path, seed):
    synthetic = channels(8, seed=seed)
    budget = synthetic.problem.budget
    uniform = synthetic(budget.space.plan(budget.project(budget.at_level(budget.level()))))
    found = synthetic(budget.space.plan(allocate(budget, measured(synthetic, tmp_path))))
    assert OBJECTIVE(found) > OBJECTIVE(uniform)
