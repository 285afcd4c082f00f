"""Bytes by arithmetic against bytes on disk, and the description that makes up the rest of a file."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import partial

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lightning_compress as lc
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core import packed_size
from lightning_compress.core.packed_size import code_bytes, float_counts, packed_bytes
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.export.header import Description
from lightning_compress.quantization.placements.skips import Skips
from lightning_compress.quantization.placements.tensors import Tensors
from lightning_compress.surgery import measure
from lightning_compress.surgery.structure import structure_of
from lightning_compress.testing.toys import ToyNet
from lightning_compress.vision.models.resnet_cifar import resnet8, resnet20

NETS = {
    "one layer": (lambda: nn.Sequential(nn.Linear(4, 2)), (2, 4)),
    "toy": (ToyNet, (2, 1, 8, 8)),
    "resnet8": (partial(resnet8, in_channels=1), (2, 1, 8, 8)),
    "resnet20": (resnet20, (2, 3, 32, 32)),
    "resnet18": (partial(torchvision.models.resnet18, num_classes=10), (2, 3, 32, 32)),
    "mobilenet": (partial(torchvision.models.mobilenet_v2, num_classes=10), (2, 3, 32, 32)),
    "vit": (partial(torchvision.models.VisionTransformer, 16, 8, 3, 2, 32, 64), (2, 3, 16, 16)),
}


def file_and_prediction(net, example, path):
    """Real and predicted bytes."""
    with torch.no_grad():
        net(example)
    predicted = packed_bytes(structure_of(net).profile)
    return lc.save(net, path / "net").stat().st_size, predicted


def within(size: int, predicted: int) -> bool:
    """Never less than the file; 2 % more, or in a file of a few kB, where the header is most, 450 bytes."""
    return size <= predicted <= size + max(0.02 * size, 450)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", [0, 1])
def test_each_layer_with_bits_of_its_own(name, seed, tmp_path):
    rng, (make, shape) = random.Random(seed), NETS[name]
    net, example = make().eval(), torch.randn(shape)
    layers = [layer.name for layer in measure.measure(net, example).weighted if layer.positions]
    plan = {n: {"weight_bits": rng.randint(1, 8), "act_bits": rng.randint(2, 8)} for n in layers}
    QuantizationAwareTraining(plan).apply(net, example)
    assert within(*file_and_prediction(net, example, tmp_path))


@pytest.mark.parametrize("name", [name for name in NETS if name not in ("one layer", "vit")])
@pytest.mark.parametrize("placement", [Tensors(), Skips()], ids=["tensors", "skips"])
def test_quantizers_that_several_layers_share_are_counted(name, placement, tmp_path):
    make, shape = NETS[name]
    net, example = make().eval(), torch.randn(shape)
    layers = [layer.name for layer in measure.measure(net, example).weighted]
    plan = {n: {"weight_bits": 4, "act_bits": 8} for n in layers}
    QuantizationAwareTraining(plan, placement=placement).apply(net, example)
    assert within(*file_and_prediction(net, example, tmp_path))


@pytest.mark.parametrize("name", ["toy", "resnet8", "resnet20", "mobilenet"])
@pytest.mark.parametrize("quantized", [True, False])
def test_each_layer_with_a_ratio_of_its_own(name, quantized, tmp_path):
    rng, (make, shape) = random.Random(0), NETS[name]
    net, example = make().eval(), torch.randn(shape)
    prune = ChannelPruning()
    choices = prune.choices(net, measure.measure(net, example), example)
    prune.with_plan(Plan({c.layer: {"channels": rng.choice(c.values)} for c in choices})).apply(net, example)
    if quantized:
        layers = [layer.name for layer in structure_of(net).profile.weighted]
        plan = {n: {"weight_bits": rng.randint(1, 8), "act_bits": rng.randint(2, 8)} for n in layers}
        QuantizationAwareTraining(plan).apply(net, example)
    assert within(*file_and_prediction(net, example, tmp_path))


def test_a_small_network_at_four_bits_is_little_more_than_its_codes(tmp_path):
    net, example = resnet8(in_channels=1), torch.randn(2, 1, 8, 8)
    layers = measure.measure(net, example).weighted
    QuantizationAwareTraining({layer.name: {"weight_bits": 4} for layer in layers}).apply(net, example)
    codes = sum(layer.weights for layer in layers) // 2
    numbers = sum(2 * 4 * layer.out_channels for layer in layers)  # a scale and a bias for each channel
    assert file_and_prediction(net, example, tmp_path)[0] - codes - numbers < 800


def test_tables_that_a_checkpoint_holds_are_counted(tmp_path):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.register_buffer("positions", torch.arange(501, dtype=torch.int16))
            self.register_buffer("passing", torch.zeros(10_000), persistent=False)

        def forward(self, x):
            return self.fc(x)

    net, example = Net(), torch.zeros(2, 4)
    file = lc.save(net, tmp_path / "net", example)
    assert within(file.stat().st_size, packed_bytes(measure.measure(net, example)))
    fresh = Net()
    fresh.positions.zero_()
    assert torch.equal(lc.load(file, fresh).positions, net.positions)


widths, layers_of = st.integers(1, 40), st.integers(0, 6)


@st.composite
def profiles(draw):
    """Conv layers with and without a bias, bits and a norm."""
    layers = []
    for i in range(draw(layers_of)):
        bits, out = draw(st.sampled_from([*range(1, 9), 32])), draw(widths)
        scales = 0 if bits == 32 else draw(st.sampled_from([1, out]))
        act = draw(st.sampled_from([4, 32]))
        layers.append(LayerProfile(
            f"conv{i}", "conv", draw(widths), out, kernel=(3, 3), extras=draw(st.integers(0, 1)), weight_bits=bits,
            weight_scales=scales, act_bits=act, act_scales=0 if act == 32 else 2,
        ))  # fmt: skip
        if draw(st.booleans()):
            follows = draw(st.sampled_from(["", f"conv{i}"]))
            layers.append(LayerProfile(f"bn{i}", "norm", out, out, extras=2, buffers=2, follows=follows))
    return Profile({layer.name: layer for layer in layers})


@given(profiles())
def test_the_sum_is_that_of_the_folded_network(profile):
    numbers = sum(code_bytes(p) + 4 * sum(float_counts(p).values()) for p in profile.folded())
    header = packed_size.HEADER_BYTES + sum(map(packed_size.entry_bytes, profile))
    assert packed_bytes(profile) == header + numbers


@given(profiles(), st.data())
def test_fewer_bits_or_channels_never_take_more_bytes(profile, data):
    if not len(profile.weighted):
        return
    layer = data.draw(st.sampled_from(profile.weighted))
    fewer = data.draw(st.integers(1, layer.in_channels))
    smaller = [replace(layer, in_channels=fewer)]
    if 1 < layer.weight_bits < 32:
        smaller.append(replace(layer, weight_bits=layer.weight_bits - 1))
    assert all(packed_bytes(profile.update([p])) <= packed_bytes(profile) for p in smaller)


@settings(deadline=None)
@given(profiles(), st.data())
def test_a_description_comes_back_from_json(profile, data):
    numbers = st.one_of(st.integers(-9, 99), st.floats(allow_nan=False, allow_infinity=False), st.just(5 / 8))
    names = st.sampled_from([*profile.layers, "another.layer"])
    plans = st.dictionaries(
        names, st.dictionaries(st.sampled_from(["channels", "act_bits", "rank"]), numbers, min_size=1)
    )
    bits = Plan({p.name: {"weight_bits": p.weight_bits} for p in profile if p.weight_bits < 32})
    described = Description(
        profile,
        {"Any": Plan(data.draw(plans)), "Bits": bits},
        {
            p.name: {"kind": "a", "zero": data.draw(st.sampled_from([-0.5, -8.0]))}
            for p in profile
            if p.weight_bits < 32
        },
        {p.name: {"kind": data.draw(st.sampled_from("ab")), "bits": 4} for p in profile if p.act_bits < 32},
        data.draw(st.dictionaries(st.sampled_from("xyz"), st.fixed_dictionaries({"kind": st.just("c"), "r": numbers}))),
    )
    again = Description.from_dict(json.loads(json.dumps(described.to_dict())))
    assert again == described
    assert {name: plan.digest for name, plan in again.applied.items()} == {
        name: plan.digest for name, plan in described.applied.items()
    }
