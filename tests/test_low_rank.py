"""Factorized layers: against independent formulas, in a Trainer, on disk, and next to other callbacks."""

from __future__ import annotations

import copy
import random
from functools import partial

import pytest
import torch
import torchvision
from torch import nn

import lightning_compress as lc
from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.low_rank import KEY, LowRank
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.budget import Budget
from lightning_compress.core.costs.activation_bytes import ActivationBytes
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.errors import CompressError, PackedFileError
from lightning_compress.core.plan import Plan
from lightning_compress.pruning.scopes.network_wide import NetworkWide
from lightning_compress.surgery import measure
from lightning_compress.surgery.calibration import calibration_of
from lightning_compress.surgery.low_rank.tucker import Tucker2
from lightning_compress.surgery.replacement import replace_module
from lightning_compress.surgery.structure import Structure, network, structure_of, write_structure
from lightning_compress.testing.toys import PlainModule, ToyNet
from lightning_compress.vision.models.resnet_cifar import resnet8, resnet20
from lightning_compress.vision.models.vgg_cifar import vgg16_bn

EXAMPLE = torch.zeros(2, 1, 8, 8)
PLAN = Plan({"conv1": {"rank_in": 0.5, "rank_out": 0.25}, "fc": {"rank_out": 0.5}})


def net_with(plan: Plan, refinements: int = 0, make=ToyNet) -> nn.Module:
    torch.manual_seed(0)
    net = make().eval()
    LowRank(plan, refinements=refinements).apply(net, EXAMPLE)
    return net


@pytest.mark.parametrize("refinements", [0, 3])
def test_factors_from_the_cache_are_those_made_afresh(refinements):
    module = PlainModule()
    search = LowRank(refinements=refinements)
    search.calibrate(module, ())
    candidate = copy.deepcopy(module)
    assert calibration_of(network(candidate), KEY) is calibration_of(network(module), KEY)
    search.with_plan(PLAN).apply(network(candidate), EXAMPLE)
    fresh = network(copy.deepcopy(module))
    fresh.__dict__.pop("_lightning_compress_gathered")
    LowRank(PLAN, refinements=refinements).apply(fresh, EXAMPLE)
    found = network(candidate).state_dict()
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, found[key]), key
    assert calibration_of(network(candidate), KEY) is None
    assert "conv1" in calibration_of(network(module), KEY)


NETS = {
    "toy": (ToyNet, (2, 1, 8, 8)),
    "resnet20": (resnet20, (2, 3, 32, 32)),
    "vgg16": (vgg16_bn, (2, 3, 32, 32)),
    "resnet18": (partial(torchvision.models.resnet18, num_classes=10), (2, 3, 64, 64)),
    "vit": (partial(torchvision.models.VisionTransformer, 16, 8, 3, 2, 32, 64), (2, 3, 16, 16)),
}


@pytest.mark.parametrize("name", NETS)
def test_any_ranks_give_the_predicted_profile_a_forward_pass_and_the_predicted_bytes(name, tmp_path):
    make, shape = NETS[name]
    rng, net, example = random.Random(0), make().eval(), torch.randn(shape)
    callback, dense = LowRank(), measure.measure(net, example)
    choices = callback.choices(net, dense, example)
    plan = Plan({})
    for choice in choices:
        plan = plan.merge(Plan({choice.layer: {choice.knob: rng.choice(choice.values)}}))
    resolved = callback.resolve(plan, net, dense, example)
    assert callback.resolve(resolved, net, dense, example) == resolved
    assert callback.predict(resolved, dense) == callback.predict(plan, dense)
    with torch.no_grad():
        expected = net(example)
    callback.with_plan(plan).apply(net, example)
    profile = structure_of(net).profile
    measured = measure.measure(net, example)
    assert profile == measured
    assert list(profile.layers) == list(measured.layers)
    assert ActivationBytes()(profile) == ActivationBytes()(measured)
    assert profile.macs < dense.macs
    with torch.no_grad():
        assert net(example).shape == expected.shape
    file = lc.save(net, tmp_path / "a")
    size = file.stat().st_size
    assert size <= PackedBytes()(profile) <= size + max(0.02 * size, 400)
    assert lc.inspect(file).profile == profile
    assert lc.inspect(file).plan == resolved


def test_ranks_that_save_nothing_leave_the_layer_whole():
    net = ToyNet().eval()
    whole = Plan({"conv1": {"rank_in": 1.0, "rank_out": 1.0}, "fc": {"rank_out": 1.0}})
    before = {key: value.clone() for key, value in net.state_dict().items()}
    LowRank(whole).apply(net, EXAMPLE)
    assert structure_of(net).plan == Plan({})
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_cost_rises_along_choices_and_a_budget_is_met():
    net = ToyNet(24).eval()
    composition = Composition([LowRank()], net, EXAMPLE)
    space = composition.space()
    assert all(choice.values[-1] == 1.0 for choice in space.choices)
    rng = random.Random(0)
    for _ in range(50):
        point = [rng.randrange(len(choice.values)) for choice in space.choices]
        i = rng.randrange(len(point))
        costs = []
        for value in range(len(space.choices[i].values)):
            costs.append(MACs()(composition.predict(space.plan((*point[:i], value, *point[i + 1 :])))))
        assert costs == sorted(costs)
    limit = 0.5 * composition.profile.macs
    budget = Budget(lambda plan: MACs()(composition.predict(plan)), limit, space)
    plan = composition.resolve(space.plan(budget.at_level(budget.level())))
    assert 0.3 * composition.profile.macs < composition.predict(plan).macs <= limit


def mixed_plan() -> Plan:
    return Plan(
        {
            "conv1": {"channels": 0.5, "rank_in": 0.5, "rank_out": 0.25, "density": 0.5, "weight_bits": 4},
            "conv2": {"weight_bits": 5},
            "fc": {"rank_out": 0.5, "weight_bits": 6, "density": 0.5},
        }
    )


def together() -> list:
    return [ChannelPruning(), LowRank(), WeightPruning(), QuantizationAwareTraining()]


def test_what_a_plan_says_of_a_layer_is_said_of_its_factors():
    net = ToyNet().eval()
    composition = Composition(together(), net, EXAMPLE)
    resolved = composition.resolve(mixed_plan())
    bits = {"conv1.0": 4, "conv1.1": 4, "conv1.2": 4, "conv2": 5, "fc.0": 6, "fc.1": 6}
    assert resolved.knob("weight_bits") == bits
    assert resolved.get("conv1", "rank_in") == 0.5
    assert resolved.get("conv1", "density") is None
    assert composition.resolve(resolved) == resolved
    thin = copy.deepcopy(net)
    composition.apply(thin, resolved)
    assert structure_of(thin).profile == composition.predict(resolved) == composition.predict(mixed_plan())
    other = copy.deepcopy(net)
    composition.apply(other, mixed_plan())
    assert structure_of(other).profile == structure_of(thin).profile
    with torch.no_grad():
        assert torch.equal(thin(torch.ones(2, 1, 8, 8)), other(torch.ones(2, 1, 8, 8)))


def test_a_factor_named_by_itself_wins():
    plan = mixed_plan().merge(Plan({"conv1.1": {"weight_bits": 2}}))
    resolved = Composition(together(), ToyNet().eval(), EXAMPLE).resolve(plan)
    assert [resolved.get(f"conv1.{i}", "weight_bits") for i in range(3)] == [4, 2, 4]
    with pytest.raises(CompressError, match=r"no layer 'conv1\.3'"):
        Composition(together(), ToyNet().eval(), EXAMPLE).resolve(plan.merge(Plan({"conv1.3": {"weight_bits": 2}})))


def test_weights_of_factors_to_come_cannot_be_ranked_in_the_whole_network():
    callbacks = [LowRank(), WeightPruning(scope=NetworkWide())]
    plan = Plan({"conv1": {"rank_in": 0.5, "rank_out": 0.25, "density": 0.5}})
    with pytest.raises(CompressError, match=r"'conv1.0', which another callback of this stage changes first"):
        Composition(callbacks, ToyNet().eval(), EXAMPLE).resolve(plan)


def test_factors_are_pruned_factorized_and_quantized_in_later_stages(tmp_path):
    net = net_with(Plan({"conv1": {"rank_in": 0.75, "rank_out": 0.5}}), make=partial(ToyNet, 16))
    for callback, plan in (
        (ChannelPruning, {"conv1.0": {"channels": 0.5}, "conv1.1": {"channels": 0.5}}),
        (QuantizationAwareTraining, {"conv1": {"weight_bits": 5}, "conv2": {"act_bits": 6}}),
    ):
        callback(plan).apply(net, EXAMPLE)
    assert [layer.out_channels for layer in net.conv1] == [6, 8, 32]
    assert net.conv1[1].weight.shape == (8, 6, 3, 3)
    x = torch.randn(4, 1, 8, 8)
    expected = net(x)
    loaded = lc.load(lc.save(net, tmp_path / "a"), ToyNet(16))
    torch.testing.assert_close(loaded(x), expected, rtol=1e-4, atol=1e-4)
    again = lc.load(lc.save(loaded, tmp_path / "b"), ToyNet(16))
    torch.testing.assert_close(again(x), expected, rtol=1e-4, atol=1e-4)


def test_a_factor_can_be_factorized_again(tmp_path):
    net = net_with(Plan({"conv1": {"rank_in": 0.75, "rank_out": 0.5}}), make=partial(ToyNet, 16))
    inner = Tucker2.like(net.conv1[1], rank_in=3, rank_out=2)
    replace_module(net, "conv1.1", inner)
    write_structure(net, Structure(measure.measure(net, EXAMPLE)))
    loaded = lc.load(lc.save(net, tmp_path / "a"), ToyNet(16))
    assert [layer.out_channels for layer in loaded.conv1[1]] == [3, 2, 16]
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(loaded(x), net(x), rtol=1e-4, atol=1e-4)


def test_packed_files_bring_the_factors_back(tmp_path):
    net = net_with(PLAN)
    net.bn1.running_mean.normal_()
    x = torch.randn(4, 1, 8, 8)
    loaded = lc.load(lc.save(net, tmp_path / "a"), ToyNet())
    assert isinstance(loaded.conv1, Tucker2)
    assert isinstance(loaded.bn1, nn.Identity)
    torch.testing.assert_close(loaded(x), net(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lc.load(lc.save(loaded, tmp_path / "b"), ToyNet())(x), net(x), rtol=1e-4, atol=1e-4)


def test_a_file_of_another_network_is_refused(tmp_path):
    file = lc.save(net_with(PLAN), tmp_path / "a")
    with pytest.raises(PackedFileError, match="made for another network: the saved network has a layer 'conv1'"):
        lc.load(file, nn.Sequential(nn.Conv2d(1, 4, 3)))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"bn1": {"rank_out": 0.5}}, "layer 'bn1' cannot be factorized: it is no Conv or Linear"),
        ({"conv1": {"rank_in": 0.0}}, "rank_in of layer 'conv1' must be above 0 and at most 1"),
        ({"fc": {"rank_in": 0.5}}, "layer 'fc' has no rank_in, only one rank"),
    ],
)
def test_bad_plans_are_named(plan, message):
    with pytest.raises(CompressError, match=message):
        LowRank(plan).apply(ToyNet(), EXAMPLE)


def test_what_cannot_be_factorized_is_no_choice_and_says_why():
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    example = torch.zeros(1, 8, 12, 12)
    QuantizationAwareTraining({"2": {"weight_bits": 4}}).apply(net, example)
    callback, profile = LowRank(), structure_of(net).profile
    assert {choice.layer for choice in callback.choices(net, profile, example)} == {"3"}
    with pytest.raises(CompressError, match="layer '0' cannot be factorized: it has 2 groups"):
        callback.resolve(Plan({"0": {"rank_out": 0.5}}), net, profile, example)
    with pytest.raises(CompressError, match="layer '2' cannot be factorized: it is quantized or masked"):
        callback.resolve(Plan({"2": {"rank_out": 0.5}}), net, profile, example)


def test_ignored_layers_are_no_choice():
    net = resnet8(in_channels=1)
    choices = LowRank(ignore=["layer*"]).choices(net, measure.measure(net, EXAMPLE), EXAMPLE)
    assert {choice.layer for choice in choices} == {"conv1", "fc"}


@torch.no_grad()
def test_a_transformer_layer_calls_its_factors_in_eval_mode_too():
    torch.manual_seed(0)
    net, example = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), torch.randn(3, 5, 16)
    LowRank(Plan({"linear1": {"rank_out": 0.25}, "linear2": {"rank_out": 0.25}})).apply(net, example)
    torch.testing.assert_close(net.eval()(example), net.train()(example))


def with_hooks() -> tuple[nn.Module, list]:
    """Return a network with hooks of all kinds on two layers."""
    net = ToyNet().eval()
    handles = []
    for layer in (net.conv1, net.fc):
        handles += [
            layer.register_forward_pre_hook(lambda _layer, args: (2 * args[0],)),
            layer.register_forward_pre_hook(lambda _layer, args, kwargs: ((args[0] + 1,), kwargs), with_kwargs=True),
            layer.register_forward_hook(lambda _layer, _args, output: 3 * output),
            layer.register_forward_hook(lambda _layer, _args, _kwargs, output: output - 1, with_kwargs=True),
            layer.register_full_backward_hook(lambda _layer, inputs, _outputs: tuple(5 * grad for grad in inputs)),
        ]
    return net, handles


def test_hooks_go_on_to_the_factors_and_their_handles_remove_them(tmp_path):
    full = Plan({"conv1": {"rank_in": 1.0, "rank_out": 0.75}, "fc": {"rank_out": 0.25}})
    torch.manual_seed(0)
    net, handles = with_hooks()
    with torch.no_grad():  # of the ranks that stay, so that the factors are exact
        net.conv1.weight[3 * len(net.conv1.weight) // 4 :] = 0
        net.fc.weight.copy_(torch.ones(len(net.fc.weight), 1) * net.fc.weight[:1])
    x = torch.randn(4, 1, 8, 8, requires_grad=True)
    before = net(x), *torch.autograd.grad(net(x).square().sum(), x)
    LowRank(full).apply(net, EXAMPLE)
    assert isinstance(net.conv1, Tucker2)
    after = net(x), *torch.autograd.grad(net(x).square().sum(), x)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
    loaded = lc.load(lc.save(net, tmp_path / "a"), with_hooks()[0])
    torch.testing.assert_close(loaded(x), before[0], rtol=1e-3, atol=1e-4)
    for handle in handles:
        handle.remove()
    bare = ToyNet().eval()
    LowRank(full).apply(bare, EXAMPLE)
    bare.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(x), bare(x))


def test_a_weight_that_is_not_finite_is_named():
    net = ToyNet()
    with torch.no_grad():
        net.conv1.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(CompressError, match="layer 'conv1' cannot be factorized: its weight is not finite"):
        LowRank(PLAN).apply(net, EXAMPLE)
