"""Contract suite of costs. Subclass it, and give the fixture ``cost``."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightning_compress.core.activations import Step
from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.profile import LayerProfile, Profile

CONV = LayerProfile("conv", "conv", 3, 8, kernel=(3, 3), positions=64)
NORM = LayerProfile("bn", "norm", 8, 8, extras=2, buffers=2, follows="conv")
LINEAR = LayerProfile("fc", "linear", 8, 10, extras=1)


class CostContract:
    """Never rising when a layer gets smaller; a sum over layers, or no more than one."""

    @pytest.fixture
    def cost(self) -> Cost:
        """Return the cost under test."""
        raise NotImplementedError

    def test_additive_over_layers(self, cost) -> None:
        parts = [cost(profile(CONV, NORM)), cost(profile(LINEAR))]
        whole, added = cost(profile(CONV, NORM, LINEAR)), sum(parts) - cost(Profile({}))
        assert whole == added if cost.additive else max(parts) <= whole <= added

    @pytest.mark.parametrize("change", [
        {"out_channels": 4}, {"in_channels": 2}, {"kernel": (1, 1)}, {"weight_bits": 4, "weight_scales": 8},
    ], ids=str)  # fmt: skip
    def test_never_rises_when_a_layer_shrinks(self, cost, change) -> None:
        assert cost(profile(replace(CONV, **change), LINEAR)) <= cost(profile(CONV, LINEAR))

    def test_fewer_bits_never_cost_more(self, cost) -> None:
        found = [cost(profile(replace(CONV, weight_bits=b, weight_scales=8))) for b in range(1, 9)]
        assert found == sorted(found)

    def test_the_same_again(self, cost) -> None:
        assert cost(profile(CONV, NORM, LINEAR)) == cost(profile(CONV, NORM, LINEAR))

    def test_it_says_what_it_is(self, cost) -> None:
        assert cost.name.isidentifier()
        assert cost.text(1.0).endswith(cost.unit)

    def test_a_rounded_limit_is_met(self, cost) -> None:
        value = cost(profile(CONV, NORM, LINEAR))
        assert value <= cost.round_up(value) <= 1.1 * value + 1
        assert cost.limit(cost.text(cost.round_up(value)), 1.0) == cost.round_up(value)


def profile(*layers: LayerProfile) -> Profile:
    """Return a profile of some layers, which run one after the other."""
    steps = [Step("", (), (("", 192),))]
    for layer in layers:
        if layer.weights:
            steps.append(Step(layer.name, (len(steps) - 1,), ((layer.name, layer.positions),)))
    return Profile({layer.name: layer for layer in layers}, (*steps, Step("", (len(steps) - 1,))))
