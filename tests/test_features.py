"""Observations: bounded, and the same for the same layer of any network."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.core.budget import Budget
from lightning_compress.core.costs.weight_bits import WeightBits
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.core.space import Choice, Space
from lightning_compress.search.problem import Problem
from lightning_compress.search.rl.features import COLUMNS, Features
from lightning_compress.testing import problems

MADE = [make(layers=n, budget=0.4).problem for make in (problems.channels, problems.bits) for n in (1, 5, 14)]


def column(features: Features, name: str) -> np.ndarray:
    return features.static[:, COLUMNS.index(name)]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_observation_lies_in_the_unit_box(data):
    problem = data.draw(st.sampled_from(MADE))
    features = Features(problem)
    decided: tuple[int, ...] = ()
    for choice in problem.space.choices:
        observation = features.at(decided, data.draw(st.floats(0, 1)))
        assert observation.shape == (len(COLUMNS),)
        assert observation.dtype == np.float32
        assert ((observation >= 0) & (observation <= 1)).all()
        proposal = data.draw(st.integers(0, len(choice.values) - 1))
        decided = (*decided, problem.budget.clip(decided, proposal))


@pytest.mark.parametrize("make", [problems.channels, problems.bits])
def test_what_is_no_share_of_the_network_does_not_depend_on_the_network(make):
    small, large = Features(make(layers=6).problem), Features(make(layers=14).problem)
    for name in ("depthwise", "linear", "in_channels", "out_channels", "kernel", "stride", "first_knob"):
        assert column(small, name)[0] == column(large, name)[0]


def test_shapes_and_shares_by_hand():
    layers = [
        LayerProfile("conv", "conv", 3, 15, kernel=(3, 3), stride=2, positions=4),
        LayerProfile("depth", "conv", 15, 15, groups=15, kernel=(7, 7), positions=4),
        LayerProfile("fc", "linear", 15, 7),
    ]
    dense = Profile({layer.name: layer for layer in layers})
    space = Space(tuple(Choice(layer.name, knob, (2, 8)) for layer in layers for knob in ("act_bits", "weight_bits")))
    budget = Budget(lambda plan: sum(map(float, plan.knob("weight_bits").values())), 15, space)
    features = Features(Problem(budget, dense, lambda plan: dense))
    weights, macs = np.array([405, 735, 105]), np.array([1620, 2940, 105])
    expected = {
        "position": np.linspace(0, 1, 6),
        "depthwise": [0, 0, 1, 1, 0, 0],
        "linear": [0, 0, 0, 0, 1, 1],
        "in_channels": np.repeat([log2(4), log2(16), log2(16)], 2) / 12,
        "out_channels": np.repeat([log2(16), log2(16), log2(8)], 2) / 12,
        "kernel": np.repeat([3 / 7, 1, 1 / 7], 2),
        "stride": [1, 1, 0.5, 0.5, 0.5, 0.5],
        "weight_share": np.repeat(weights / weights.sum(), 2),
        "mac_share": np.repeat(macs / macs.sum(), 2),
        "first_knob": [1, 0, 1, 0, 1, 0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(column(features, name), values, rtol=1e-6, err_msg=name)


def test_committed_and_at_stake_follow_the_roll_out():
    problem = problems.bits(layers=4, budget=0.5).problem
    sizes = np.array([layer.weights for layer in problem.dense])
    cost, floor = WeightBits(), 2 * sizes.sum()
    assert cost(problem.predict(problem.space.plan(problem.space.smallest))) == floor
    features, bits = Features(problem), np.array([4, 2, 5])
    committed = ((bits - 2) * sizes[:3]).sum() / (problem.budget.limit - floor)
    live = features.at(tuple(int(b) - 2 for b in bits), 0.25)[-3:]
    np.testing.assert_allclose(live, [committed, sizes[3] / sizes.sum(), 0.25], rtol=1e-6)


def test_nothing_to_choose_has_no_rows():
    assert Features(problems.bits(layers=0).problem).static.shape == (0, len(COLUMNS))
