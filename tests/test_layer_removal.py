"""Removing layers and blocks: what can go, what is left, and what it starts from."""

from __future__ import annotations

import copy
import random
from functools import partial

import pytest
import torch
import torchvision
from torch import nn

import lightning_compress as lc
import lightning_compress.conf
from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.layer_removal import LayerRemoval
from lightning_compress.callbacks.low_rank import LowRank
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.budget import Budget
from lightning_compress.core.costs.activation_bytes import ActivationBytes
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import Profile
from lightning_compress.pruning.initializers.inherit import Inherit
from lightning_compress.pruning.reconstruction.asymmetric import KEY as CALIBRATION
from lightning_compress.pruning.reconstruction.asymmetric import Asymmetric
from lightning_compress.search.problem import Problem
from lightning_compress.search.rl.features import Features
from lightning_compress.surgery import measure
from lightning_compress.surgery.calibration import calibration_of
from lightning_compress.surgery.graph.blocks import Removed
from lightning_compress.surgery.graph.trace_blocks import find_removable
from lightning_compress.surgery.structure import structure_of
from lightning_compress.testing.toys import PlainModule, ToyNet, toy_data
from lightning_compress.vision.models.resnet_cifar import ResNetCIFAR, resnet20, resnet56
from lightning_compress.vision.models.vgg_cifar import vgg16_bn

EXAMPLE = torch.zeros(2, 1, 8, 8)


class Chain(nn.Module):
    """A small VGG: widening, equal and narrowing convolutions, a flattening, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(),
            nn.Conv2d(6, 12, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(48, 60), nn.ReLU(), nn.Linear(60, 4))

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


NETS = {
    "toy": (ToyNet, (2, 1, 8, 8)),
    "chain": (Chain, (2, 1, 8, 8)),
    "resnet20": (resnet20, (2, 3, 32, 32)),
    "resnet56": (resnet56, (1, 3, 16, 16)),
    "vgg16": (vgg16_bn, (2, 3, 32, 32)),
    "resnet18": (partial(torchvision.models.resnet18, num_classes=10), (1, 3, 64, 64)),
    "vit": (partial(torchvision.models.VisionTransformer, 16, 8, 3, 2, 32, 64), (1, 3, 16, 16)),
}
EXPECTED = {
    "toy": {"conv1"},
    "chain": {"features.3", "features.7", "features.12", "classifier.0"},
    "resnet20": {*(f"layer{i}.{j}" for i in (1, 2, 3) for j in (1, 2)), "layer1.0", "layer2.0.conv2", "layer3.0.conv2"},
    "vgg16": {f"features.{i}" for i in (3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)},
    "resnet18": {*(f"layer{i}.1" for i in (1, 2, 3, 4)), "layer1.0", *(f"layer{i}.0.conv2" for i in (2, 3, 4))},
    "vit": {f"encoder.layers.encoder_layer_{i}" for i in range(3)},
}


def choices_of(net: nn.Module, example: torch.Tensor) -> tuple[LayerRemoval, Profile, list[str]]:
    callback, profile = LayerRemoval(initialize=Inherit()), measure.measure(net, example)
    return callback, profile, [choice.layer for choice in callback.choices(net, profile, example)]


@pytest.mark.parametrize("name", NETS)
def test_any_removal_gives_the_predicted_profile_a_forward_pass_and_the_predicted_bytes(name, tmp_path):
    make, shape = NETS[name]
    net, example, rng = make().eval(), torch.randn(shape), random.Random(0)
    callback, dense, names = choices_of(net, example)
    if name in EXPECTED:
        assert set(names) == EXPECTED[name]
    assert {p.name for p in dense.weighted} >= callback.kept_whole(net, example).keys()
    with torch.no_grad():
        expected = net(example).shape
    for share in [1.0, 0.5] if name == "vgg16" else [1.0, 0.7, 0.5, 0.3]:
        thin = copy.deepcopy(net)
        chosen = [n for n in names if rng.random() < share]
        plan = Plan({n: {"keep": 0} for n in chosen})
        assert callback.resolve(plan, thin, dense, example) == plan
        callback.with_plan(plan).apply(thin, example)
        profile = structure_of(thin).profile
        measured = measure.measure(thin, example)
        assert profile == callback.predict(plan, dense) == measured
        assert ActivationBytes()(profile) == ActivationBytes()(measured)
        with torch.no_grad():
            assert thin(example).shape == expected
        size = lc.save(thin, tmp_path / "a").stat().st_size
        assert size <= PackedBytes()(profile) <= size + max(0.02 * size, 450)
        assert lc.inspect(tmp_path / "a").plan == plan


def test_cost_rises_with_every_layer_that_stays():
    net = Chain().eval()
    composition = Composition([LayerRemoval(initialize=Inherit())], net, EXAMPLE)
    space = composition.space()
    assert [choice.layer for choice in space.choices] == ["features.3", "features.7", "features.12", "classifier.0"]
    for number in range(2 ** len(space)):
        point = [number >> i & 1 for i in range(len(space))]
        cost = MACs()(composition.predict(space.plan(tuple(point))))
        for i in (i for i, value in enumerate(point) if not value):
            more = (*point[:i], 1, *point[i + 1 :])
            assert MACs()(composition.predict(space.plan(more))) > cost


def test_an_identity_is_where_a_block_was_and_the_rest_is_as_before():
    net = ResNetCIFAR(2, in_channels=1).eval()
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        hidden = net.layer1[0](net.relu(net.bn1(net.conv1(x))))
        expected = net.fc(net.pool(net.layer3(net.layer2(hidden))).flatten(1))
    LayerRemoval({"layer1.1": {"keep": 0}, "layer2.1": {"keep": 1}}, Inherit()).apply(net, x)
    assert isinstance(net.layer1[1], Removed)
    assert structure_of(net).plan == Plan({"layer1.1": {"keep": 0}})
    assert torch.equal(net(x), expected)


class InPlace(nn.Module):
    """A branch whose activation works in place, beside a shortcut that reads the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.first(x)
        return self.last(self.branch(x).relu_() + x)


def test_what_works_in_place_behind_a_removed_layer_changes_nothing_else():
    net, x = InPlace().eval(), torch.randn(8, 4)
    hidden = net.first(x)
    expected = net.last(hidden.relu() + hidden)
    LayerRemoval({"branch": {"keep": 0}}, Inherit()).apply(net, x)
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "chain", "vit"])
def test_what_is_left_can_be_trained_whatever_goes(name):
    make, shape = NETS[name]
    net, example = make(), torch.randn(2, *shape[1:])
    callback, _, names = choices_of(net, example)
    for removed in names:
        thin = copy.deepcopy(net)
        callback.with_plan(Plan({removed: {"keep": 0}})).apply(thin, example)
        thin.train()(example).square().sum().backward()


def test_batch_norms_go_with_their_layer_and_activations_stay():
    net = Chain().eval()
    LayerRemoval({"features.3": {"keep": 0}}, Inherit()).apply(net, EXAMPLE)
    kinds = [type(module) for module in net.features[3:7]]
    assert kinds == [Removed, Removed, nn.ReLU, nn.MaxPool2d]
    assert net.features[7].weight.shape == (8, 4, 3, 3)
    assert net.features[7].in_channels == 4


def test_the_layer_behind_a_flattening_gets_its_inputs_channel_by_channel():
    net = Chain().eval()
    LayerRemoval({"features.12": {"keep": 0}, "classifier.0": {"keep": 0}}, Inherit()).apply(net, EXAMPLE)
    assert net.classifier[2].in_features == 24  # six channels of 2 x 2
    assert net(EXAMPLE).shape == (2, 4)


@pytest.mark.parametrize(
    ("part", "readers"),
    [
        ("layer1.0", ("layer1.1.conv1", "layer2.0.conv1", "layer2.0.shortcut.0")),
        ("layer1.1", ("layer2.0.conv1", "layer2.0.shortcut.0")),
        ("layer2.0.conv2", ("layer2.1.conv1", "layer3.0.conv1", "layer3.0.shortcut.0")),
        ("layer3.1", ("fc",)),
    ],
)
def test_who_reads_a_block_is_found_through_sums_and_pooling(part, readers):
    net = ResNetCIFAR(2, in_channels=1).eval()
    assert find_removable(net, measure.measure(net, EXAMPLE), EXAMPLE).removable[part].readers == readers


class Skips(nn.Module):
    """Two convolutions of one width, the second of them with a skip or without."""

    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)
        self.skip = skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x).relu()
        return self.fc((self.b(x) + x if self.skip else self.b(x)).relu().mean((2, 3)))


@pytest.mark.parametrize("make", [ChannelPruning, LayerRemoval])
@pytest.mark.parametrize("skips", [(True, False), (False, True)])
def test_a_callback_that_has_seen_a_network_follows_another_of_the_same_layers(make, skips):
    used = make()
    for skip in skips:
        net = Skips(skip)
        profile = measure.measure(net, EXAMPLE)
        assert used.choices(net, profile, EXAMPLE) == make().choices(net, profile, EXAMPLE)
        again = Skips(skip)
        traced = dict(used._graphs)
        used.choices(again, measure.measure(again, torch.zeros(3, 1, 12, 12)), EXAMPLE)
        assert used._graphs == traced  # a candidate of a search is not followed anew


def test_ignored_blocks_are_no_choice():
    net = ResNetCIFAR(2, in_channels=1)
    choices = LayerRemoval(ignore=["layer2.*"]).choices(net, measure.measure(net, EXAMPLE), EXAMPLE)
    assert {choice.layer for choice in choices} == {"layer1.0", "layer1.1", "layer3.0.conv2", "layer3.1"}


@pytest.mark.parametrize(("make", "plan", "message"), [
    (ToyNet, {"fc": {"keep": 0}}, "'fc' must stay: it is, or holds, the first or the last layer"),
    (ToyNet, {"conv2": {"keep": 0}}, "'conv2' must stay: it has fewer outputs than inputs"),
    (ToyNet, {"conv1": {"keep": 0.5}}, "keep of 'conv1' must be 0 or 1, got 0.5"),
    (ToyNet, {"pool": {"keep": 0}}, "'pool' cannot be removed"),
    (partial(ResNetCIFAR, 2, in_channels=1), {"layer2.0.conv1": {"keep": 0}}, "must stay: it is strided"),
    (partial(ResNetCIFAR, 2, in_channels=1), {"layer2.1.conv1": {"keep": 0}}, "is part of 'layer2.1', which goes as"),
])  # fmt: skip
def test_what_must_stay_is_named_with_a_reason(make, plan, message):
    with pytest.raises(CompressError, match=message):
        LayerRemoval(plan, Inherit()).apply(make(), EXAMPLE)


class Odd(nn.Module):
    """A layer that runs twice, one that is never run, and one whose shape the forward pass asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.idle = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.asked, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.twice(self.twice(self.first(x)))
        return self.last(self.asked(x) * self.asked.out_features)


def test_candidates_are_verified_by_execution():
    net, example = Odd(), torch.randn(2, 4)
    callback, _, names = choices_of(net, example)
    assert not names
    kept = callback.kept_whole(net, example)
    assert kept["twice"] == "it runs 2 times in one forward pass"
    assert kept["idle"] == "it never ran on the example input"
    assert "without 'asked' a layer behind it gets a shape" in kept["asked"]


def test_what_was_gathered_is_forgotten_even_when_all_layers_stay():
    module = PlainModule()
    callback = LayerRemoval({"conv1": {"keep": 1}})
    callback.calibrate(module, toy_data(0)[0])
    callback.apply(module.model, EXAMPLE)
    pruning = ChannelPruning({"conv1": {"channels": 0.5}}, refit=Asymmetric())
    with torch.no_grad():  # as a training would
        module.model.conv2.weight.neg_()
    pruning.calibrate(module, toy_data(0)[0])
    assert torch.equal(calibration_of(module.model, CALIBRATION)[0].conv2.weight, module.model.conv2.weight)


def test_what_a_plan_says_of_removed_layers_is_passed_over(tmp_path):
    net = ResNetCIFAR(2, in_channels=1).eval()
    bits = {layer.name: {"weight_bits": 4} for layer in measure.measure(net, EXAMPLE).weighted}
    composition = Composition(
        [LayerRemoval(initialize=Inherit()), LowRank(), QuantizationAwareTraining()], net, EXAMPLE
    )
    plan = Plan(bits).merge(Plan({"layer1.1": {"keep": 0}, "layer2.1.conv1": {"rank_in": 0.5, "rank_out": 0.5}}))
    resolved = composition.resolve(plan)
    assert not any(name.startswith("layer1.1.") for name in resolved.layers)
    assert composition.resolve(resolved) == resolved
    composition.apply(net, plan)
    assert structure_of(net).profile == composition.predict(resolved) == composition.predict(plan)
    loaded = lc.load(lc.save(net, tmp_path / "a"), ResNetCIFAR(2, in_channels=1))
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(loaded(x), net(x), rtol=1e-4, atol=1e-4)


def test_channels_are_searched_in_a_later_stage_and_said_so():
    net = ResNetCIFAR(2, in_channels=1).eval()
    composition = Composition([LayerRemoval(initialize=Inherit()), ChannelPruning()], net, EXAMPLE)
    with pytest.raises(CompressError, match="removes layers; prune channels in a stage after it"):
        composition.resolve(Plan({"layer1.1": {"keep": 0}, "layer2.0.conv1": {"channels": 0.5}}))


def test_stages_one_and_two_of_n2n(tmp_path):
    net = ResNetCIFAR(2, in_channels=1).eval()
    LayerRemoval({"layer1.1": {"keep": 0}, "layer3.0.conv2": {"keep": 0}}, Inherit()).apply(net, EXAMPLE)
    second = Composition([ChannelPruning()], net, EXAMPLE)
    plan = Plan({choice.layer: {"channels": choice.values[0]} for choice in second.space().choices})
    second.apply(net, second.resolve(plan))
    assert structure_of(net).profile == measure.measure(net, EXAMPLE)
    x = torch.randn(2, 1, 8, 8)
    loaded = lc.load(lc.save(net, tmp_path / "a"), ResNetCIFAR(2, in_channels=1))
    torch.testing.assert_close(loaded(x), net(x), rtol=1e-4, atol=1e-4)


def test_a_policy_sees_a_block_as_the_sum_of_its_layers():
    net = ResNetCIFAR(2, in_channels=1).eval()
    composition = Composition([LayerRemoval(initialize=Inherit())], net, EXAMPLE)
    limit = 0.8 * composition.profile.macs
    budget = Budget(lambda plan: MACs()(composition.predict(plan)), limit, composition.space())
    features = Features(Problem(budget, composition.profile, composition.predict))
    index = [choice.layer for choice in budget.space.choices].index("layer1.1")
    weights = sum(layer.weights for layer in composition.profile.inside("layer1.1"))
    total = sum(layer.weights for layer in composition.profile)
    assert features.at((0,) * index, 0.0)[7] == pytest.approx(weights / total)
