"""Profiles measured on networks, against numbers known from elsewhere."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import lightning_compress as lc
from lightning_compress.core.errors import CompressError
from lightning_compress.core.profile import Profile
from lightning_compress.surgery import measure
from lightning_compress.surgery.inputs import small
from lightning_compress.testing.toys import Routed, ToyNet


@pytest.mark.parametrize(("name", "macs", "parameters"), [
    ("resnet18", 1_814_073_344, 11_689_512), ("mobilenet_v2", 300_774_272, 3_504_872),
])  # fmt: skip
def test_macs_and_parameters_at_224_pixels(name, macs, parameters):
    profile = measure.measure(getattr(torchvision.models, name)(), torch.zeros(1, 3, 224, 224))
    assert (profile.macs, profile.parameters) == (macs, parameters)


def test_an_example_need_not_be_where_the_network_is():
    example = torch.zeros(2, 1, 8, 8)
    assert measure.measure(ToyNet().to("meta"), example) == measure.measure(ToyNet(), example)


def test_all_that_a_profile_says_can_be_read():
    profile = measure.measure(ToyNet(), torch.zeros(2, 1, 8, 8))
    for name in (name for name in dir(Profile) if not name.startswith("_")):
        getattr(profile, name)


def test_every_parameter_of_an_unusual_network_is_counted():
    net = torchvision.models.convnext_tiny(num_classes=10)
    profile = measure.measure(net, torch.zeros(1, 3, 64, 64))
    assert profile.parameters == sum(p.numel() for p in net.parameters())


def test_a_norm_follows_a_layer_only_when_nothing_else_reads_it():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.bn_a = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)
            self.b, self.bn_b = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x):
            x = self.bn_a(self.a(x))
            y = self.b(x)
            return self.bn_b(y) + y

    profile = measure.measure(Net(), torch.zeros(2, 1, 3, 3))
    assert profile["bn_a"].follows == "a"
    assert profile["bn_b"].follows == ""


@pytest.mark.parametrize("wrap", [
    torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.parametrizations.spectral_norm,
    torch.nn.utils.spectral_norm,
])  # fmt: skip
def test_a_weight_that_is_no_parameter_is_refused(wrap):
    net = nn.Sequential(wrap(nn.Conv2d(1, 2, 1)))
    with pytest.raises(CompressError, match="the weight of layer '0' is computed from other parameters"):
        measure.measure(net, torch.zeros(2, 1, 3, 3))
    assert not net[0]._forward_hooks


def test_parameters_and_buffers_that_a_layer_has_beside_its_own_are_counted():
    layer = nn.Conv2d(1, 2, 1)
    layer.register_parameter("gain", nn.Parameter(torch.ones(2, 5)))
    layer.register_buffer("table", torch.zeros(3, dtype=torch.int64))
    layer.register_buffer("passing", torch.zeros(3), persistent=False)
    profile = measure.measure(nn.Sequential(layer, nn.BatchNorm2d(2)), torch.zeros(2, 1, 3, 3))
    assert list(profile.layers) == ["0", "0.gain", "0.table", "1"]
    assert profile.parameters == 4 + 10 + 4
    assert profile["0.table"].buffers == 6


def test_a_layer_that_runs_twice_does_twice_the_work():
    layer = nn.Linear(3, 3)
    assert measure.measure(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(2, 3)).macs == 2 * 9


class EachSample(nn.Module):
    """Runs its layers for each sample, and one over a table that all samples share."""

    def __init__(self, keyword: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.up = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 4, 2, 2)
        self.cell, self.shared, self.table = nn.GRUCell(4, 5), nn.Linear(4, 5), nn.Parameter(torch.randn(1, 4))
        self.keyword = keyword

    def forward(self, x):
        call = (lambda layer, x: layer(input=x)) if self.keyword else (lambda layer, x: layer(x))
        maps = [call(self.conv, image) for image in x]
        normed = call(self.norm, torch.stack(maps))
        means = [call(self.up, image).mean((1, 2)) for image in normed]
        return torch.stack([call(self.cell, mean) for mean in means]) + call(self.shared, self.table)


@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize("samples", [1, 2, 5])
def test_macs_of_a_sample_do_not_depend_on_how_many_calls_share_the_batch(samples, keyword):
    profile = measure.measure(EachSample(keyword), torch.rand(samples, 3, 8, 8))
    macs = {layer.name: layer.macs for layer in profile if layer.macs}
    expected = {"conv": 36 * 8 * 27, "up": 36 * 8 * 4 * 4, "cell.weight_ih": 15 * 4, "cell.weight_hh": 15 * 5}
    assert macs == {**expected, "shared": 4 * 5}
    assert lc.WeightPruning().kept_whole(EachSample(keyword), torch.rand(samples, 3, 8, 8)) == {}


@pytest.mark.parametrize("keyword", [False, True])
def test_a_norm_that_is_called_by_keyword_follows_its_layer_and_is_pruned_with_it(keyword):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.last = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)
            self.layer = nn.LayerNorm(4)

        def forward(self, x):
            x = self.conv(x)
            x = (self.norm(input=x) if keyword else self.norm(x)).relu()
            x = (self.last(input=x) if keyword else self.last(x)).movedim(1, -1)
            return self.layer(input=x) if keyword else self.layer(x)

    net, x = Net(), torch.rand(2, 3, 8, 8)
    assert measure.measure(net, x)["norm"].follows == "conv"
    lc.ChannelPruning({"conv": {"channels": 0.5}}).apply(net, x)
    assert (net.conv.out_channels, len(net.norm.weight), net.last.in_channels) == (4, 4, 4)


def test_modes_statistics_and_gradients_stay():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).train()
    net[1].eval()
    measure.measure(net, torch.randn(2, 1, 3, 3))
    assert net.training
    assert net[0].training
    assert not net[1].training
    assert int(net[1].num_batches_tracked) == 0
    assert not net[0]._forward_hooks


class Normalizes(nn.Module):
    """Writes into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        x.sub_(1.0).mul_(2.0)
        return self.last(self.conv(x).relu())


@pytest.mark.parametrize("callback", [
    lambda: lc.ChannelPruning({"conv": {"channels": 0.5}}), lambda: lc.WeightPruning({"conv": {"density": 0.5}}),
    lambda: lc.QuantizationAwareTraining({"conv": {"weight_bits": 4}}), lambda: lc.LowRank({"last": {"rank_out": 0.5}}),
])  # fmt: skip
def test_a_network_that_writes_into_its_input_leaves_the_example(callback):
    x = torch.zeros(2, 1, 8, 8)
    measure.measure(Normalizes(), x)
    callback().apply(Normalizes(), x)
    assert not x.any()


def test_inputs_that_are_one_tensor_stay_one():
    x = torch.rand(2, 3)
    first, second, third = measure.beside(nn.Linear(3, 3), (x, {"y": x}, x.clone()))
    assert first is second["y"]
    assert first is not x
    assert first is not third


def test_a_network_without_weights_is_refused():
    with pytest.raises(CompressError, match="runs no layer with a weight"):
        measure.measure(nn.Sequential(nn.ReLU()), torch.zeros(1, 2))


def test_an_example_that_the_network_does_not_take_is_told_in_a_sentence():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    words = r"Sequential does not run on the example, of shape \(2, 3, 8, 8\) \(Given groups=1, .*one input batch"
    with pytest.raises(CompressError, match=words):
        measure.measure(net, torch.zeros(2, 3, 8, 8))
    with pytest.raises(CompressError, match="which holds no tensor"):
        measure.measure(net, "an image")


def test_profiles_survive_plain_types():
    profile = measure.measure(torchvision.models.resnet18(), torch.zeros(1, 3, 64, 64))
    again = Profile.from_dict(profile.to_dict())
    assert again == profile
    assert again.steps == profile.steps
    with pytest.raises(CompressError, match="expected layers and steps"):
        Profile.from_dict([{"what": 1}])


def test_a_layer_that_gets_no_rows_is_measured():
    profile = measure.measure(Routed(), torch.rand(2, 4))
    assert profile["dark"].macs == 16
    assert profile["bright"].macs == 0


class ReadByCode(nn.Module):
    """Multiplies by the weights of layers that it does not call: whole, in parts, and turned."""

    def __init__(self):
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.table, self.qkv, self.out = nn.Embedding(5, 12), nn.Linear(6, 36, bias=False), nn.Linear(12, 6)

    def forward(self, x):
        x = F.conv2d(x, self.conv.weight, self.conv.bias, stride=2)  # 7 x 7 -> 3 x 3
        x = F.conv_transpose2d(x, weight=self.up.weight, stride=2)  # -> 6 x 6
        q, k, v = (F.linear(x.flatten(2).mT, part) for part in self.qkv.weight.split(12))
        return self.out(q + k + v) @ self.qkv.weight[:12].t(), (q + k + v) @ self.table.weight.t()


READ = {
    "conv": (8 * 3 * 9) * 9, "up": (8 * 6 * 4) * 9, "qkv": (36 * 6 + 12 * 6) * 36, "out": (12 * 6) * 36,
    "table.weight": (5 * 12) * 36,
}  # fmt: skip


def test_macs_of_layers_whose_weights_code_reads_are_counted():
    profile = measure.measure(ReadByCode(), torch.zeros(2, 3, 7, 7))
    assert {layer.name: layer.macs for layer in profile} == READ


def test_weights_that_code_reads_are_quantized():
    net, example = ReadByCode(), torch.randn(2, 3, 7, 7)
    choices = lc.QuantizationAwareTraining(act_bits=()).choices(net, measure.measure(net, example), example)
    assert {choice.layer for choice in choices} == set(READ)
    lc.QuantizationAwareTraining(lc.Plan({name: {"weight_bits": 2} for name in READ})).apply(net, example)
    assert all(len(row.unique()) <= 4 for row in net.qkv.weight)


class TakesAList(nn.Module):
    """Makes one batch of a list of images, as detectors do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        return self.conv(torch.stack(images))


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: {"images": x}], ids=["list", "tuple", "dict"])
def test_a_list_of_samples_is_refused(wrap):
    with pytest.raises(CompressError, match=r"TakesAList makes one batch of a list of 2 samples.*list\(x\)"):
        measure.measure(TakesAList(), wrap([torch.zeros(3, 5, 5)] * 2))


class TakesLevels(nn.Module):
    """Takes a list of batches, one of each level of a pyramid."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 1), nn.Conv2d(5, 4, 1)

    def forward(self, levels):
        return self.fine(levels[0]) + self.coarse(levels[1])


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_a_list_of_batches_counts_the_samples_of_each(samples):
    levels = [torch.zeros(samples, 3, 2, 2), torch.zeros(samples, 5, 2, 2)]
    assert measure.measure(TakesLevels(), (levels,)).macs == (3 + 5) * 4 * 4


def test_lists_are_not_cut_to_a_small_example():
    images = [torch.zeros(3, 5, 5)] * 4
    assert len(small(images)) == 4
    assert small(images)[0].shape == (3, 5, 5)
    assert small((torch.zeros(4, 3), images[:1]))[0].shape == (2, 3)
