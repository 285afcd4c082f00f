"""The predicted size of an entropy-coded file against the file that is saved."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

import lightning_compress as lc
from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.low_rank import LowRank
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.budget import Budget
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.local_cost import LocalCost
from lightning_compress.core.plan import Plan
from lightning_compress.pruning.reconstruction.symmetric import Symmetric
from lightning_compress.quantization.coders.range_coded import RangeCoded
from lightning_compress.quantization.quantizers.codebook import Codebook
from lightning_compress.vision.models.resnet_cifar import resnet20

EXAMPLE = torch.zeros(2, 3, 32, 32)
CODER = RangeCoded()


@pytest.fixture(scope="module")
def net():
    """Return a ResNet-20 with weights as training leaves them: heavy tails, small and large channels."""
    rng, made = np.random.default_rng(0), resnet20().eval()
    with torch.no_grad():
        for layer in made.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                shape = layer.weight.shape
                size = np.exp(0.5 * rng.normal(size=(shape[0], shape[1], *[1] * (len(shape) - 2))))
                layer.weight.copy_(torch.from_numpy(rng.laplace(size=shape) * size) / 20)
    return made


def bits(**settings):
    return QuantizationAwareTraining(act_bits=[], **settings)


@pytest.mark.parametrize(
    "callbacks",
    [
        [bits()],
        [bits(per_channel=False)],
        [bits(weight_quantizer=Codebook, weight_bits=range(1, 9))],
        [WeightPruning(), bits()],
        [ChannelPruning(), bits()],
        [ChannelPruning(), WeightPruning(), bits()],
    ],
    ids=["bits", "a scale per layer", "codebook", "density", "channels", "all"],
)
def test_the_predicted_size_of_random_plans_is_within_two_percent_of_the_file(callbacks, net, tmp_path):
    composition, rng = Composition(callbacks, net, EXAMPLE), random.Random(0)
    cost, space = composition.priced(PackedBytes(CODER)), composition.space()
    for _ in range(2):
        upper = {"channels": 0.4, "density": 0.2}  # of the values: smaller networks are mostly header
        drawn = [rng.uniform(upper.get(c.knob, 0), 0.999) * len(c.values) for c in space.choices]
        plan = composition.resolve(space.plan(list(map(int, drawn))))
        made = copy.deepcopy(net)
        composition.apply(made, plan)
        size = lc.save(made, tmp_path / "net", coder=CODER).stat().st_size
        assert cost(composition.predict(plan)) == pytest.approx(size, rel=0.02)


def test_without_weights_and_in_fixed_width_codes_count_in_full(net):
    composition = Composition([bits()], net, EXAMPLE)
    profile = composition.predict(Plan({"conv1": {"weight_bits": 4}}))
    assert PackedBytes(CODER)(profile) == PackedBytes()(profile)
    assert composition.priced(PackedBytes()) == PackedBytes()
    assert composition.priced(PackedBytes(CODER))(profile) < PackedBytes()(profile)


def test_each_width_is_coded_once(net):
    written = []

    class Counting:
        number_bytes = 4

        def write(self, codes, bits, shape, kept=None):
            written.append(bits)
            return codes

    composition = Composition([bits(weight_bits=[4, 8])], net, EXAMPLE)
    for _ in range(2):
        cost = composition.priced(PackedBytes(Counting()))
        for width in (4, 8, 4):
            cost(composition.predict(Plan({"conv1": {"weight_bits": width}})))
    assert sorted(written) == [4] * 2 * 22 + [8] * 2 * 22  # two coders, which may be different ones


def test_more_bits_or_channels_never_take_fewer_bytes(net):
    """Check also that a budget may count them layer by layer."""
    composition = Composition([ChannelPruning(), bits()], net, EXAMPLE)
    cost, space = composition.priced(PackedBytes(CODER)), composition.space()
    budget = Budget(lambda p: cost(composition.predict(p)), 1e9, space, LocalCost(composition.predict, cost, space))
    assert budget.local is not None
    rng = random.Random(0)
    point = budget.moving([rng.randrange(len(choice.values)) for choice in space.choices])
    for number in rng.sample(range(len(space.choices)), 12):
        costs = [point.after(number, index) for index in range(len(space.choices[number].values))]
        assert costs == sorted(costs), space.choices[number]


def test_a_network_that_is_quantized_already_is_coded_as_it_is(net, tmp_path):
    coded = copy.deepcopy(net)
    bits().with_plan(Plan({"conv1": {"weight_bits": 3}})).apply(coded, EXAMPLE)
    composition = Composition([WeightPruning()], coded, EXAMPLE)
    size = lc.save(coded, tmp_path / "net", coder=CODER).stat().st_size
    assert composition.priced(PackedBytes(CODER))(composition.profile) == pytest.approx(size, rel=0.02)


def test_layers_that_a_plan_makes_count_in_fixed_width(net):
    composition = Composition([LowRank(), bits()], net, EXAMPLE)
    name = "layer3.1.conv1"
    plan = composition.resolve(Plan({name: {"rank_in": 0.25, "rank_out": 0.25, "weight_bits": 4}}))
    profile = composition.predict(plan)
    assert composition.priced(PackedBytes(CODER))(profile) == PackedBytes()(profile)


def test_codes_are_counted_before_other_callbacks_have_gathered_what_they_need(net):
    alone = Composition([bits(weight_bits=[4])], net, EXAMPLE)
    plan = Plan({"layer1.0.conv1": {"weight_bits": 4}})
    expected = alone.priced(PackedBytes(CODER))(alone.predict(plan))
    composition = Composition([ChannelPruning(refit=Symmetric()), bits(weight_bits=[4])], net, EXAMPLE)
    assert composition.priced(PackedBytes(CODER))(composition.predict(plan)) == expected
