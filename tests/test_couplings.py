"""Small networks, one for each way in which channels are coupled, and for each way in which a tracer can be wrong."""

from __future__ import annotations

import copy

import pytest
import torch
from test_graph import check_removal, random_statistics
from torch import nn

from lightning_compress.surgery import measure
from lightning_compress.surgery.graph.remove_channels import remove
from lightning_compress.surgery.graph.trace_channels import trace_channels

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Depthwise(nn.Module):
    def __init__(self, out: int):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, out, 3, groups=8), nn.Conv2d(out, 4, 1)

    def forward(self, x):
        return self.c(self.b(self.a(x)).relu())


class SqueezeExcite(nn.Module):
    """By linear layers and a view with the batch's own channel count."""

    def __init__(self):
        super().__init__()
        self.a, self.down, self.up, self.c = nn.Conv2d(3, 8, 1), nn.Linear(8, 4), nn.Linear(4, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.a(x).relu()
        batch, channels = x.shape[:2]
        gate = self.up(self.down(x.mean((2, 3)).view(batch, channels)).relu()).sigmoid()
        return self.c(x * gate.view(batch, channels, 1, 1))


class Shared(nn.Module):
    """One module that runs twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.c(self.b(self.b(self.a(x)).relu()))


class GroupedResidual(nn.Module):
    """The sum couples single channels to the places in the conv groups of ``c``."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.d = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)
        self.c = nn.Conv2d(16, 16, 3, padding=1, groups=4)

    def forward(self, x):
        x = self.a(x)
        return self.d(x + self.c(self.b(x)).relu())


class ConcatWithItself(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = self.a(x)
        return self.c(torch.cat([x, x.relu()], 1))


class Position(nn.Module):
    """A position embedding whose channels come before its places (PiT)."""

    def __init__(self):
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.embedding = nn.Parameter(torch.randn(1, 8, 8, 8))

    def forward(self, x):
        return self.c((self.a(x) + self.embedding).relu())


def around(*middle: nn.Module) -> nn.Sequential:
    """Return a convolution with 8 channels, what they go through, and what reads them."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), *middle, nn.ReLU(), nn.Conv2d(8, 4, 1))


@pytest.mark.parametrize(("net", "units"), [
    (Depthwise(8), {"a": 8}), (Depthwise(16), {"a": 8}), (SqueezeExcite(), {"a": 8, "down": 4}), (Shared(), {"a": 8}),
    (GroupedResidual(), {"a": 4, "b": 4}), (ConcatWithItself(), {"a": 8}), (Position(), {"a": 8}),
    (around(nn.PReLU()), {"0": 8}), (around(nn.PReLU(8, 0.1)), {"0": 8}),
    (around(nn.InstanceNorm2d(8)), {"0": 8}), (around(nn.InstanceNorm2d(8, affine=True)), {"0": 8}),
    (around(nn.BatchNorm2d(8, affine=False)), {"0": 8}),
    (around(nn.BatchNorm2d(8, track_running_stats=False)), {"0": 8}),
    (around(nn.BatchNorm2d(8, affine=False, track_running_stats=False)), {"0": 8}),
    (nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 8), nn.ReLU(), nn.Linear(8, 4)),
     {"0": 6, "3": 8}),
], ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "")  # fmt: skip
def test_coupled_channels_go_together(net, units):
    torch.manual_seed(0)
    graph = check_removal(random_statistics(net), IMAGES)
    assert {name: group.units for name, group in graph.groups.items()} == units


@pytest.mark.parametrize("middle", [nn.Sigmoid(), nn.Softplus()])
@torch.no_grad()
def test_channels_of_which_zeros_are_something_else_are_removed_with_what_reads_them(middle):
    net = nn.Sequential(nn.Conv2d(3, 8, 1), middle, nn.Conv2d(8, 6, 3), middle, nn.ConvTranspose2d(6, 4, 2))
    graph = trace_channels(net, measure.measure(net, IMAGES), IMAGES)
    assert {name: group.units for name, group in graph.groups.items()} == {"0": 8, "2": 6}
    kept = {"0": torch.tensor([1, 2, 6]), "2": torch.tensor([0, 4])}
    remove(thin := copy.deepcopy(net), graph, kept)
    net[2].weight[:, [0, 3, 4, 5, 7]] = 0
    net[4].weight[[1, 2, 3, 5]] = 0
    torch.testing.assert_close(thin(IMAGES), net(IMAGES))


class Tied(nn.Module):
    """Two layers with one weight, whose channels are not coupled otherwise."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.d = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.c.weight = self.b.weight

    def forward(self, x):
        return self.d(self.c(self.b(self.a(x)).relu()).relu())


class Halves(nn.Module):
    """The first channels of ``a`` go one way, or are the only ones that go on."""

    def __init__(self, forward, width: int):
        super().__init__()
        self.a, self.c, self.run = nn.Conv2d(3, 16, 1), nn.Conv2d(width, 4, 1), forward

    def forward(self, x):
        return self.c(self.run(self.a(x)))


def gated(x):
    first, second = x.chunk(2, 1)
    return first * second.sigmoid()


def uneven(x):
    first, second = x.split([4, 12], 1)
    return torch.cat([first.relu(), second], 1)


def quarters(x):
    """Halves of two halves go different ways, which fits any even number of channels, and only one by four rightly."""
    first, second = x.reshape(2 * len(x), -1, 8, 8).chunk(2, 1)
    return torch.cat([2 * first, second], 1).reshape(x.shape)


@pytest.mark.parametrize(("net", "whole"), [
    (Tied(), {"b", "c", "d"}), (Halves(quarters, 16), {"a", "c"}),
    (Halves(lambda x: x.reshape(4 * len(x), -1, 8, 8).relu().reshape(x.shape), 16), {"a", "c"}),
    (Halves(lambda x: x[:, :8].relu(), 8), {"a", "c"}),
    (Halves(lambda x: x.softmax(1), 16), {"a", "c"}), (Halves(lambda x: x.view(2, 8, 2, 8, 8).amax(2), 8), {"a", "c"}),
    (around(nn.GroupNorm(2, 8, affine=False)), {"0", "3"}),
    (around(nn.LayerNorm((8, 6, 6))), {"0", "3"}), (around(nn.LayerNorm(6, elementwise_affine=False)), {"0", "3"}),
])  # fmt: skip
def test_what_cannot_be_removed_is_kept_whole_and_named(net, whole):
    graph = trace_channels(net, measure.measure(net, IMAGES), IMAGES)
    assert set(graph.kept_whole) == whole
    assert all(graph.kept_whole.values())


def test_channels_of_two_halves_that_meet_go_together():
    graph = check_removal(Halves(gated, 8), IMAGES)
    assert {name: group.units for name, group in graph.groups.items()} == {"a": 8}
    assert next(m for m in graph.groups["a"].members if m.layer == "a").index[3].tolist() == [3, 11]


def test_channels_of_one_image_go_together():
    graph = check_removal(Halves(lambda x: nn.functional.pixel_shuffle(x, 2), 4), IMAGES)
    assert {name: group.units for name, group in graph.groups.items()} == {"a": 4}


def test_both_ways_of_a_split_are_followed():
    graph = trace_channels(net := Halves(uneven, 16), measure.measure(net, IMAGES), IMAGES)
    assert set(graph.kept_whole) | set(graph.groups) == {"a", "c"}


class Shuffled(nn.Module):
    """A channel shuffle by views with a size of its own, which torch-pruning takes for one that keeps the order."""

    def __init__(self, bias: bool, last: nn.Module):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1, bias=bias), nn.Conv2d(8, 8, 1, bias=bias)
        self.fc, self.last = nn.Linear(8, 4, bias=bias), last

    def forward(self, x):
        x = self.a(x)
        x = x.view(len(x), 2, x.shape[1] // 2, 8, 8).transpose(1, 2).reshape(x.shape)
        return self.last(self.fc(self.b(x.relu()).relu().mean((2, 3))))


@pytest.mark.parametrize(("net", "example"), [
    (Shuffled(True, nn.Identity()), IMAGES),
    (Shuffled(True, nn.Softmax(1)), 1000 * IMAGES),  # one class gets all, whatever is removed
    (Shuffled(False, nn.Identity()), torch.zeros(2, 3, 8, 8)),  # every layer gives zeros, whatever is removed
], ids=["plain", "behind a saturated softmax", "zeros without biases"])  # fmt: skip
def test_a_shuffle_is_followed(net, example):
    graph = trace_channels(net, measure.measure(net, example), example)
    assert {name: group.units for name, group in graph.groups.items()} == {"a": 4, "b": 8}
    assert next(m for m in graph.groups["a"].members if m.layer == "a").index[3].tolist() == [3, 7]


def test_tracing_moves_no_random_numbers():
    net, state = around(nn.BatchNorm2d(8)), torch.get_rng_state()
    trace_channels(net, measure.measure(net, IMAGES), IMAGES)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("last", [nn.Conv2d(8, 1, 1), nn.Sequential(nn.Flatten(), nn.Linear(8 * 64, 1))])
def test_one_output_is_the_networks_answer_like_any_other(last):
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), last)
    graph = trace_channels(net, measure.measure(net, IMAGES), IMAGES)
    assert list(graph.groups) == ["0"]
    assert [reason[:40] for reason in graph.kept_whole.values()] == ["its output channels are the output of th"]
