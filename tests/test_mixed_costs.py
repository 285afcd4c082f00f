"""Channels, ranks, density and bits together: what a plan is predicted to cost is what the network made of it costs."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.low_rank import LowRank
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.costs.bit_operations import BitOperations
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.costs.parameters import Parameters
from lightning_compress.core.costs.weight_bits import WeightBits
from lightning_compress.pruning.patterns.element import Element
from lightning_compress.pruning.patterns.kernel import Kernel
from lightning_compress.quantization.quantizers.quantizer import Quantizer
from lightning_compress.surgery.mask import measured
from lightning_compress.surgery.structure import structure_of
from lightning_compress.surgery.transforms import weight_transforms
from lightning_compress.testing.toys import ToyNet

EXAMPLE = torch.zeros(2, 1, 8, 8)


def composition(pattern) -> Composition:
    torch.manual_seed(0)
    callbacks = [
        ChannelPruning(),
        LowRank(),
        WeightPruning(pattern=pattern, densities=(0.01, 0.15, 0.5, 0.77, 1.0)),
        QuantizationAwareTraining(weight_bits=(2, 4, 8, 32), act_bits=(4, 32)),
    ]
    return Composition(callbacks, ToyNet(), EXAMPLE)


COMPOSITIONS = {pattern: composition(pattern) for pattern in (Element(), Kernel())}
SPACES = {pattern: composed.space() for pattern, composed in COMPOSITIONS.items()}


@pytest.mark.parametrize("pattern", COMPOSITIONS, ids=lambda pattern: type(pattern).__name__)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_costs_are_those_of_the_network_that_is_made(pattern, data):
    composed, space = COMPOSITIONS[pattern], SPACES[pattern]
    assert {c.knob for c in space.choices} == {"channels", "rank_in", "rank_out", "density", "weight_bits", "act_bits"}
    plan = space.plan(data.draw(st.tuples(*(st.integers(0, len(c.values) - 1) for c in space.choices))))
    resolved = composed.resolve(plan)
    assert composed.resolve(resolved) == resolved
    predicted = composed.predict(plan)
    assert predicted == composed.predict(resolved)

    net = copy.deepcopy(composed.net)
    composed.apply(net, plan)
    real = measured(net, structure_of(net).profile)
    costs = [BitOperations(), MACs(), PackedBytes(), Parameters(), WeightBits()]
    assert [cost(predicted) for cost in costs] == [cost(real) for cost in costs]
    for layer in predicted.weighted:
        weight = net.get_submodule(layer.name).weight
        assert weight.shape == (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel)
        bits = [int(t.bits) for t in weight_transforms(net.get_submodule(layer.name)) if isinstance(t, Quantizer)]
        assert bits == ([] if layer.weight_bits == 32 else [layer.weight_bits])
