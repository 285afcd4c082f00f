"""The cost of a point by the layers that a choice touches is that of the whole network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.low_rank import LowRank
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.budget import Budget
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.costs.weight_bits import WeightBits
from lightning_compress.core.local_cost import LocalCost
from lightning_compress.search.budget_repair import spend
from lightning_compress.search.rl.features import Features
from lightning_compress.testing import problems
from lightning_compress.testing.toys import ToyNet

MADE = [make(layers=9, budget=0.5).problem for make in (problems.channels, problems.bits, problems.removal)]
COMPOSED = Composition([ChannelPruning(), QuantizationAwareTraining()], ToyNet(), torch.zeros(2, 1, 8, 8))
SPACE = COMPOSED.space()


def drawn(data, space):
    return [data.draw(st.integers(0, len(choice.values) - 1)) for choice in space.choices]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_points_that_move_cost_what_their_plans_cost(data):
    budget = data.draw(st.sampled_from(MADE)).budget
    assert budget.local is not None
    point, goal = budget.moving(drawn(data, budget.space)), drawn(data, budget.space)
    for number, index in enumerate(goal):
        point.move(number, index)
        assert point.cost == pytest.approx(budget.cost(budget.space.plan(point.indices)))
    assert point.indices == goal


@pytest.mark.parametrize("cost", [MACs(), PackedBytes(), WeightBits()], ids=repr)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_widths_and_bits_of_neighbors_together(cost, data):
    local = LocalCost(COMPOSED.predict, cost, SPACE)
    point = drawn(data, SPACE)
    assert local.whole(point) == pytest.approx(cost(COMPOSED.predict(SPACE.plan(point))))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_walls_repairs_and_observations_are_the_same_without_it(data):
    problem = data.draw(st.sampled_from(MADE))
    slow = replace(problem, budget=replace(problem.budget, local=None))
    point, seed = drawn(data, problem.space), data.draw(st.integers(0, 9))
    projected = problem.budget.project(point)
    assert projected == slow.budget.project(point)
    raised = [spend(p.budget, projected, np.random.default_rng(seed)) for p in (problem, slow)]
    assert raised[0] == raised[1]
    features = Features(problem), Features(slow)
    for i in [*range(len(point)), 2, 0]:
        seen = [each.at(projected[:i], 0.5) for each in features]
        np.testing.assert_allclose(seen[0], seen[1], rtol=1e-6, atol=1e-7)


def test_choices_that_touch_a_layer_only_together_are_counted_as_a_whole():
    callbacks = [LowRank(), QuantizationAwareTraining()]
    composition = Composition(callbacks, ToyNet(), torch.zeros(2, 1, 8, 8))
    space, cost = composition.space(), PackedBytes()

    def price(plan):
        return cost(composition.predict(plan))

    budget = Budget(price, price(space.plan(space.largest)), space, LocalCost(composition.predict, cost, space))
    point = budget.moving(space.smallest)
    for number, index in enumerate(space.largest):
        point.move(number, index)
        assert point.cost == pytest.approx(price(space.plan(point.indices)))
