"""Grouped convolutions get narrower inside their groups: units, files, second moments and refits."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import LightningModule
from test_graph import check_removal, given_back, random_statistics
from test_input_moments import EVERYWHERE, pulled
from torch import nn

import lightning_compress as lc
from lightning_compress.pruning.channel_errors import channel_errors, noise_to_signal
from lightning_compress.pruning.criteria.gram import Gram, unit_gram
from lightning_compress.pruning.criteria.l2 import L2
from lightning_compress.pruning.input_moments import KEY, Moments, gather_moments, removal_error
from lightning_compress.pruning.reconstruction.asymmetric import Asymmetric
from lightning_compress.pruning.reconstruction.symmetric import Symmetric, refitted
from lightning_compress.surgery import input_rows, measure
from lightning_compress.surgery.calibration import calibration_of, store_calibration
from lightning_compress.surgery.graph.channels import IN, OUT, ChannelGroup, Member
from lightning_compress.surgery.graph.remove_channels import remove
from lightning_compress.surgery.graph.trace_channels import trace_channels
from lightning_compress.surgery.structure import Structure, write_structure

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def bottleneck(groups: int, inside: int, outside: int, *middle: nn.Module) -> nn.Sequential:
    """Return a grouped convolution between two plain ones, with norms."""
    width, out = groups * inside, groups * outside
    return nn.Sequential(
        nn.Conv2d(3, width, 1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, out, 3, padding=1, groups=groups), *middle, nn.ReLU(), nn.Conv2d(out, 2, 1),
    )  # fmt: skip


class Standardized(nn.Conv2d):
    """A grouped convolution whose weight is standardized over the inputs of a filter."""

    def forward(self, x):
        deviation, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) / (deviation + 1e-6)
        return nn.functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


@pytest.mark.parametrize(("net", "units"), [
    (bottleneck(4, 3, 6), {"0": 3, "3": 6}),
    (bottleneck(2, 8, 4, nn.BatchNorm2d(8)), {"0": 8, "3": 4}),
    (bottleneck(4, 1, 6), {"0": 4}),  # where a side has one channel: whole groups
    (bottleneck(4, 2, 4, nn.GroupNorm(4, 16)), {"0": 4}),  # which keeps the number of channels in one of its groups
    (bottleneck(4, 2, 4, nn.GroupNorm(8, 16)), {"0": 2, "3": 2}),
    (nn.Sequential(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 1, groups=2), nn.ReLU(), nn.Conv2d(12, 12, 1, groups=3),
                   nn.Conv2d(12, 2, 1)), {"0": 6, "1": 2, "3": 4}),
])  # fmt: skip
def test_units_are_places_in_all_groups(net, units):
    torch.manual_seed(0)
    graph = check_removal(random_statistics(net), IMAGES)
    assert {name: group.units for name, group in graph.groups.items()} == units


def test_standardized_weights_have_the_statistics_of_kept_inputs():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), Standardized(8, 12, 3, groups=2), nn.ReLU(), nn.Conv2d(12, 2, 1))
    graph = trace_channels(net, measure.measure(net, IMAGES), IMAGES)
    assert {name: group.units for name, group in graph.groups.items()} == {"0": 4, "1": 6}


def narrowed(net: nn.Module, ratio: float) -> None:
    """Remove all but the first units of each group, in place; the profile is as predicted."""
    profile = measure.measure(net, IMAGES)
    graph = trace_channels(net, profile, IMAGES)
    kept = {name: max(1, round(ratio * group.units)) for name, group in graph.groups.items()}
    remove(net, graph, {name: torch.arange(count) for name, count in kept.items()})
    assert measure.measure(net, IMAGES) == graph.shrink(profile, kept)


@given(
    st.integers(2, 4), st.integers(1, 4), st.integers(1, 4), st.floats(0.05, 1), st.floats(0.05, 1), st.integers(0, 99)
)
@settings(max_examples=20, deadline=None)
def test_files_and_checkpoints_give_them_back(groups, inside, outside, first, second, seed):
    torch.manual_seed(seed)
    net = bottleneck(groups, inside, outside).eval()
    dense = copy.deepcopy(net)
    narrowed(net, first)  # what this leaves of a group may be one channel, and then whole groups go
    narrowed(net, second)
    write_structure(net, Structure(measure.measure(net, IMAGES)))
    resumed, loaded = given_back(net, dense, IMAGES)
    for other in (resumed, loaded):
        assert other[3].groups == net[3].groups
        torch.testing.assert_close(other.eval()(IMAGES), net.eval()(IMAGES))


GROUPED = nn.Conv2d(12, 6, 3, padding=1, groups=3), (3, 12, 7, 7)


def gathered() -> tuple[nn.Conv2d, torch.Tensor, Moments]:
    """Return a grouped convolution, inputs, and their moments at all places."""
    torch.manual_seed(0)
    layer, x = copy.deepcopy(GROUPED[0]), torch.randn(GROUPED[1])
    net = nn.Sequential(layer)
    gather_moments(net, [x[:1], x[1:]], EVERYWHERE)
    return layer, x, calibration_of(net, KEY)["0"]


@pytest.mark.parametrize("double", [99, 0], ids=["float64", "float32"])
def test_the_quadratic_form_is_the_error_of_the_outputs(double, monkeypatch):
    monkeypatch.setattr(input_rows, "DOUBLE", double)
    layer, x, moments = gathered()
    gram = moments.channel_gram(layer.weight)
    for dropped in ([0], [3, 4], [1, 5, 9], list(range(12))):
        mask = torch.zeros(12).index_fill(0, torch.tensor(dropped), 1)
        with torch.no_grad():
            lost = layer(x) - layer(x * (1 - mask).view(1, -1, 1, 1))
        assert float(removal_error(gram, mask)) == pytest.approx(float(lost.double().square().sum()), rel=1e-4)


def test_the_refit_is_least_squares_in_each_group():
    layer, x, moments = gathered()
    kept = torch.tensor([0, 2, 4, 6, 8, 10])  # places 0 and 2 of each of the three groups
    found = refitted(layer.weight.detach().double(), moments, kept)
    for group in range(3):
        alone = nn.Conv2d(4, 2, 3, padding=1)
        own = x[:, 4 * group : 4 * group + 4]
        rows = input_rows.sampled_rows(alone, own, EVERYWHERE, torch.Generator().manual_seed(0)).double()
        columns = (torch.tensor([0, 2])[:, None] * 9 + torch.arange(9)).flatten()
        weight = layer.weight.detach()[2 * group : 2 * group + 2].double().flatten(1).T
        expected = pulled(rows[:, columns], rows @ weight, weight[columns]).T
        torch.testing.assert_close(found[2 * group : 2 * group + 2].flatten(1), expected, rtol=1e-4, atol=1e-5)


def test_errors_are_those_of_the_refit():
    layer, _, moments = gathered()
    net = nn.Sequential(nn.Conv2d(3, 12, 1), layer)
    index = torch.arange(12).view(3, 4).T
    group = ChannelGroup("0", 4, (Member("0", OUT, index), Member("1", IN, index)))
    order = torch.tensor([2, 0, 3, 1])
    found = channel_errors(group, net, {"1": moments}, order)
    lost, signal = torch.zeros(5, dtype=torch.float64), 0.0
    for part, weight in zip(moments.by_group(), layer.weight.detach().chunk(3), strict=True):  # as three convolutions
        alone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 3))
        alone[1].weight = nn.Parameter(weight)
        single = torch.arange(4)[:, None]
        own = ChannelGroup("0", 4, (Member("0", OUT, single), Member("1", IN, single)))
        ratio = channel_errors(own, alone, {"1": Moments(part, None, moments.rows)}, order)
        power = float(Moments(part, None, moments.rows).channel_gram(weight).sum())
        lost, signal = lost + ratio / (1 + ratio) * power, signal + power
    torch.testing.assert_close(found, noise_to_signal(lost / signal), rtol=1e-6, atol=1e-9)
    assert found[4] == 0
    store_calibration(net, KEY, {"1": moments})
    assert unit_gram(group, net).shape == (4, 4)


class Classifier(LightningModule):
    """Gives its network images."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch, _index):
        return self.net(batch).mean()


@pytest.mark.parametrize("refit", [None, Symmetric(EVERYWHERE), Asymmetric(EVERYWHERE)], ids=repr)
@pytest.mark.parametrize("criterion", [L2(), Gram(EVERYWHERE)], ids=repr)
def test_pruning_with_a_refit_loses_less(refit, criterion):
    torch.manual_seed(0)
    net = bottleneck(4, 4, 4).eval()
    module, x = Classifier(net), torch.randn(64, 3, 8, 8)
    with torch.no_grad():
        before = net(x)
        callback = lc.ChannelPruning({"0": {"channels": 0.5}}, criterion, refit=refit)
        callback.calibrate(module, [x])
        callback.apply(net, x[:2])
        error = float((net(x) - before).square().sum() / (before - before.mean()).square().sum())
    assert net[3].weight.shape == (16, 2, 3, 3)
    assert error < (0.6 if refit is None else 0.25)
