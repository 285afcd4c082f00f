"""Channels of transposed convolutions: removal is masking, files give them back, criteria read the right axis."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import LightningModule
from test_graph import check_removal, given_back, random_statistics
from torch import nn

import lightning_compress as lc
from lightning_compress.core.profile import Profile
from lightning_compress.pruning.criteria.criterion import over_units
from lightning_compress.pruning.criteria.gram import Gram
from lightning_compress.pruning.criteria.l1 import L1
from lightning_compress.pruning.criteria.l2 import L2
from lightning_compress.pruning.criteria.taylor import Taylor
from lightning_compress.pruning.reconstruction.asymmetric import Asymmetric
from lightning_compress.pruning.reconstruction.symmetric import Symmetric
from lightning_compress.surgery import measure
from lightning_compress.surgery.graph.channels import ChannelGraph
from lightning_compress.surgery.graph.remove_channels import remove
from lightning_compress.surgery.graph.trace_channels import trace_channels
from lightning_compress.surgery.input_rows import sampled_rows
from lightning_compress.surgery.row_layout import weight_rows
from lightning_compress.surgery.structure import Structure, write_structure

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def decoder(up: nn.Module, *behind: nn.Module) -> nn.Sequential:
    """Return a transposed convolution between two convolutions, with norms."""
    width = up.in_channels
    first = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU()
    last = nn.Conv2d(up.out_channels, 2, 1)
    return random_statistics(nn.Sequential(*first, up, *behind, nn.BatchNorm2d(up.out_channels), nn.ReLU(), last))


class UNet(nn.Module):
    """Two levels with concatenated skips, the inner one upsampled to a given size, as behind images of odd sizes."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(8, 10, 3, 2, 1)
        self.up_c, self.up_b = nn.ConvTranspose2d(10, 8, 3, 2, 1), nn.ConvTranspose2d(8, 6, 2, 2)
        self.norm, self.merge, self.head = nn.BatchNorm2d(8), nn.Conv2d(16, 8, 1), nn.Conv2d(12, 2, 1)

    def forward(self, x):
        a = self.a(x).relu()
        b = self.b(a).relu()
        up = self.norm(self.up_c(self.c(b).relu(), output_size=b.shape[-2:])).relu()
        b = self.merge(torch.cat([up, b], 1)).relu()
        return self.head(torch.cat([self.up_b(b), a], 1))


@given(
    st.integers(6, 9), st.integers(6, 9), st.integers(1, 3), st.integers(1, 4), st.booleans(), st.integers(0, 999),
    st.data(),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_removal_is_masking(inputs, outputs, stride, kernel, bias, seed, data):
    torch.manual_seed(seed)
    padding = data.draw(st.integers(0, (kernel - 1) // 2), "padding")
    dilation = data.draw(st.integers(1, 2), "dilation")
    more = data.draw(st.integers(0, max(stride, dilation) - 1), "output_padding")
    up = nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding, more, bias=bias, dilation=dilation)
    graph = check_removal(decoder(up), IMAGES)
    assert {name: group.units for name, group in graph.groups.items()} == {"0": inputs, "3": outputs}


@pytest.mark.parametrize(("net", "example"), [
    (nn.Sequential(nn.Conv1d(3, 6, 3), nn.ReLU(), nn.ConvTranspose1d(6, 5, 4, 2, 1), nn.Conv1d(5, 2, 1)), (2, 3, 9)),
    (nn.Sequential(nn.Conv3d(1, 4, 3), nn.ConvTranspose3d(4, 6, 2, 2), nn.ReLU(), nn.Conv3d(6, 2, 1)), (2, 1, 5, 5, 5)),
    (nn.Sequential(nn.ConvTranspose2d(7, 12, 4), nn.BatchNorm2d(12), nn.ReLU(), nn.ConvTranspose2d(12, 8, 4, 2, 1),
                   nn.LeakyReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1)), (4, 7, 1, 1)),  # the generator of DCGAN
], ids=["1d", "3d", "generator"])  # fmt: skip
def test_in_other_dimensions_and_in_generators(net, example):
    torch.manual_seed(0)
    graph = check_removal(random_statistics(net), torch.randn(example))
    assert len(graph.groups) == 2
    assert list(graph.kept_whole.values()) == ["its output channels are the output of the network"]


def test_in_a_u_net():
    torch.manual_seed(0)
    graph = check_removal(random_statistics(UNet()), torch.randn(2, 3, 16, 16))
    assert {name: group.units for name, group in graph.groups.items()} == {
        "a": 6, "b": 8, "c": 10, "up_c": 8, "up_b": 6, "merge": 8
    }  # fmt: skip
    assert list(graph.kept_whole) == ["head"]


@pytest.mark.parametrize(("up", "units"), [
    (nn.ConvTranspose2d(12, 8, 3, groups=2), {"0": 6, "3": 4}),  # places in each of its groups
    (nn.ConvTranspose2d(9, 6, 3, 2, groups=3), {"0": 3, "3": 2}),
    (nn.ConvTranspose2d(6, 6, 2, 2, groups=6), {"0": 6}),  # depthwise
    (nn.ConvTranspose2d(4, 12, 2, 2, groups=4), {"0": 4}),  # whole groups, as one side of each has one channel
    (nn.ConvTranspose2d(12, 4, 2, 2, groups=4), {"0": 4}),
])  # fmt: skip
def test_grouped_ones_lose_places_or_whole_groups(up, units):
    torch.manual_seed(0)
    graph = check_removal(decoder(up), IMAGES)
    assert {name: group.units for name, group in graph.groups.items()} == units


def test_one_whose_weight_is_computed_is_kept_whole_for_that_reason():
    up = nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(6, 4, 2, 2))
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), up, nn.Conv2d(4, 5, 1), nn.Conv2d(5, 2, 1)).eval()
    graph = trace_channels(net, measure.measure(net, IMAGES), IMAGES)
    assert list(graph.groups) == ["3"]
    assert "which is a ParametrizedConvTranspose2d whose weight is computed" in graph.kept_whole["0"]


def halved(net: nn.Module, example: torch.Tensor) -> tuple[ChannelGraph, Profile]:
    """Remove the second half of each group in place; return the groups, and the profile after that as predicted."""
    profile = measure.measure(net, example)
    graph = trace_channels(net, profile, example)
    remove(net, graph, {name: torch.arange(max(1, group.units // 2)) for name, group in graph.groups.items()})
    return graph, graph.halved(profile)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_files_and_checkpoints_give_them_back(groups):
    torch.manual_seed(0)
    net = decoder(nn.ConvTranspose2d(8, 12, 3, 2, groups=groups))
    dense = copy.deepcopy(net)
    _, predicted = halved(net, IMAGES)
    halved(net, IMAGES)  # what the first time left may be one channel on a side: then whole groups go
    write_structure(net, Structure(measure.measure(net, IMAGES)))
    assert predicted.macs > measure.measure(net, IMAGES).macs
    resumed, loaded = given_back(net, dense, IMAGES)
    for other in (resumed, loaded):
        assert repr(other[3]) == repr(net[3])
        torch.testing.assert_close(other.eval()(IMAGES), net.eval()(IMAGES))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", ["l1", "l2", "taylor"])
def test_criteria_score_its_outputs(groups, name):
    torch.manual_seed(0)
    net = decoder(nn.ConvTranspose2d(4, 6, 3, groups=groups))
    group = trace_channels(net, measure.measure(net, IMAGES), IMAGES).groups["3"]
    net(IMAGES).square().mean().backward()
    each = 6 // groups
    filters = [  # channel by channel: the weights that make it
        (net[3].weight[4 // groups * (o // each) :, o % each][: 4 // groups],
         net[3].weight.grad[4 // groups * (o // each) :, o % each][: 4 // groups])
        for o in range(6)
    ]  # fmt: skip
    by_hand = {
        "l1": [w.abs().sum() for w, _ in filters],
        "l2": [w.square().sum().sqrt() for w, _ in filters],
        "taylor": [(w * g).sum().square() for w, g in filters],
    }
    expected = over_units(group, {"3": torch.stack(by_hand[name]).detach()})
    torch.testing.assert_close({"l1": L1(), "l2": L2(), "taylor": Taylor()}[name](group, net), expected)


@given(st.sampled_from([1, 2]), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99), st.data())
@settings(max_examples=20, deadline=None)
def test_rows_times_weight_are_the_outputs(groups, inside, stride, kernel, seed, data):
    torch.manual_seed(seed)
    padding, dilation = data.draw(st.integers(0, kernel)), data.draw(st.integers(1, 2))
    more = data.draw(st.integers(0, max(stride, dilation) - 1), "output_padding")
    up = nn.ConvTranspose2d(2 * inside, 4, (kernel, 2), stride, (padding, 0), more, groups, False, dilation)
    x = torch.randn(3, 2 * inside, 9, 8)
    expected = up(x).flatten(2).transpose(1, 2).flatten(0, 1)
    rows = sampled_rows(up, x, 10_000, torch.Generator().manual_seed(0)).chunk(groups, 1)
    weights = weight_rows(up).flatten(1).chunk(groups)
    found = torch.cat([part @ weight.T for part, weight in zip(rows, weights, strict=True)], 1)
    # The places of a sample come in a random order.
    for ours, theirs in zip(found.chunk(3), expected.chunk(3), strict=True):
        torch.testing.assert_close(ours.sort(0).values, theirs.sort(0).values, rtol=1e-4, atol=1e-5)


class Generator(LightningModule):
    """Gives its network images."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch, _index):
        return self.net(batch).mean()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("refit", [Symmetric(10_000), Asymmetric(10_000)], ids=repr)
@pytest.mark.parametrize("criterion", [L2(), Gram(10_000)], ids=repr)
def test_pruning_with_a_refit_loses_less(refit, criterion, groups):
    torch.manual_seed(0)
    dense, x = decoder(nn.ConvTranspose2d(16, 12, 3, 2, groups=groups)), torch.randn(32, 3, 8, 8)

    def error(refit):
        net = copy.deepcopy(dense)
        callback = lc.ChannelPruning({"0": {"channels": 0.5}, "3": {"channels": 0.5}}, criterion, refit=refit)
        callback.calibrate(Generator(net), [x])
        callback.apply(net, x[:2])
        assert net[3].weight.shape == (8, 6 // groups, 3, 3)
        with torch.no_grad():
            return float((net(x) - dense(x)).square().sum())

    assert error(refit) < 0.9 * error(None)


def test_a_planner_knows_what_its_readers_lose():
    torch.manual_seed(0)
    net = decoder(nn.ConvTranspose2d(6, 4, 2, 2))
    callback, profile = lc.ChannelPruning(refit=Symmetric()), measure.measure(net, IMAGES)
    choices = callback.choices(net, profile, IMAGES)
    for errors in callback.output_errors(choices, net, profile, IMAGES, [IMAGES]):
        assert errors == sorted(errors, reverse=True)
        assert errors[0] > errors[-1] == 0
