"""Projection: every projected plan meets the budget."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.budget import Budget
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.errors import InfeasibleBudgetError
from lightning_compress.core.space import Choice, Space
from lightning_compress.testing import problems
from lightning_compress.testing.toys import ToyNet

PROBLEMS = [make(layers=8, budget=share).problem for make in (problems.channels, problems.bits) for share in (0.3, 0.7)]


@settings(max_examples=10_000, deadline=None)
@given(st.data())
def test_every_projected_plan_meets_the_budget(data):
    budget = data.draw(st.sampled_from(PROBLEMS)).budget
    point = tuple(data.draw(st.integers(0, len(c.values) - 1)) for c in budget.space.choices)
    projected = budget.project(point)
    assert budget.meets(budget.space.plan(projected))
    assert all(a <= b for a, b in zip(projected, point, strict=True))
    if budget.meets(budget.space.plan(point)):
        assert projected == point


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_real_callbacks_and_costs_together(data):
    import torch

    composition = Composition([ChannelPruning(), QuantizationAwareTraining()], ToyNet(), torch.zeros(2, 1, 8, 8))
    space = composition.space()
    cost = data.draw(st.sampled_from([MACs(), PackedBytes()]))
    full = cost(composition.predict(space.plan(space.largest)))
    budget = Budget(lambda plan: cost(composition.predict(plan)), 0.6 * full, space)
    point = tuple(data.draw(st.integers(0, len(c.values) - 1)) for c in space.choices)
    plan = space.plan(budget.project(point))
    assert budget.meets(plan)
    assert budget.meets(composition.resolve(plan))


def test_an_infeasible_budget_names_the_smallest_feasible_limit():
    space = Space((Choice("a", "x", (2, 5)), Choice("b", "x", (1, 3))))
    total = lambda plan: sum(plan.knob("x").values())  # noqa: E731
    with pytest.raises(InfeasibleBudgetError, match="the smallest feasible one is 3"):
        Budget(total, 2, space)
    assert Budget(total, 3, space).project((1, 1)) == (0, 0)


def test_the_first_choices_get_what_they_ask_for():
    space = Space((Choice("a", "x", (1, 2, 3, 4)), Choice("b", "x", (1, 2, 3, 4))))
    budget = Budget(lambda plan: sum(plan.knob("x").values()), 6, space)
    assert budget.project((3, 3)) == (3, 1)
    assert budget.clip((0,), 3) == 3
