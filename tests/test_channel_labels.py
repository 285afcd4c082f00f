"""Channels are followed through splits, shuffles and attention over branches, which a graph of layers does not tell."""

from __future__ import annotations

import copy
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_graph import check_removal, given_back, random_statistics
from torch import nn

import lightning_compress as lc
from lightning_compress.core.errors import CompressError
from lightning_compress.surgery import measure
from lightning_compress.surgery.graph import verify_channels
from lightning_compress.surgery.graph.remove_channels import remove
from lightning_compress.surgery.graph.trace_channels import trace_channels
from lightning_compress.surgery.modes import training
from lightning_compress.surgery.split_numbers import numbers_of, set_numbers

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class SplitAttention(nn.Module):
    """``radix`` splits of one grouped convolution, weighed by a softmax over them for each channel (ResNeSt)."""

    def __init__(self, radix: int, width: int) -> None:
        super().__init__()
        self.radix = radix
        self.stem, self.norm = nn.Conv2d(3, 2 * radix, 1), nn.BatchNorm2d(radix * width)
        self.conv = nn.Conv2d(2 * radix, radix * width, 3, padding=1, groups=radix)
        self.down, self.up, self.head = nn.Conv2d(width, 4, 1), nn.Conv2d(4, radix * width, 1), nn.Conv2d(width, 2, 1)

    def forward(self, x):
        x = self.norm(self.conv(self.stem(x))).relu()
        batch, channels = x.shape[:2]
        x = x.reshape(batch, self.radix, channels // self.radix, *x.shape[2:])
        weights = self.up(self.down(x.sum(1).mean((2, 3), keepdim=True)).relu())
        weights = weights.view(batch, 1, self.radix, -1).transpose(1, 2).softmax(1).reshape(batch, -1)
        return self.head((x * weights.view(batch, self.radix, channels // self.radix, 1, 1)).sum(1))


class SelectiveKernels(nn.Module):
    """Branches of several kernels, each of which reads a part of the input; their sizes are numbers in the code."""

    def __init__(self, paths: int, width: int, by_part: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, paths * width, 1)
        if by_part:
            self.width = width
        else:
            self.in_channels = paths * width
        self.paths = nn.ModuleList(nn.Conv2d(width, 6, 1 + 2 * i, padding=i) for i in range(paths))
        self.down, self.select, self.head = nn.Linear(6, 3), nn.Linear(3, 6 * paths), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        size = self.width if hasattr(self, "width") else self.in_channels // len(self.paths)
        parts = torch.split(self.stem(x).relu(), size, 1)
        x = torch.stack([path(part) for path, part in zip(self.paths, parts, strict=True)], 1)
        weights = self.select(self.down(x.sum(1).mean((2, 3))).relu())
        weights = weights.view(len(x), len(self.paths), -1, 1, 1).softmax(1)
        return self.head((x * weights).sum(1))


class Shuffled(nn.Module):
    """Half of the channels go through a branch, and a shuffle mixes both halves (ShuffleNet V2)."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.stem, self.branch = nn.Conv2d(3, 2 * width, 1), nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Conv2d(2 * width, 2, 1)

    def forward(self, x):
        kept, other = self.stem(x).relu().chunk(2, 1)
        x = torch.cat([kept, self.branch(other)], 1)
        batch, channels, height, width = x.size()
        x = x.view(batch, self.groups, channels // self.groups, height, width).transpose(1, 2).contiguous()
        return self.head(x.view(batch, channels, height, width))


class Hierarchical(nn.Module):
    """Parts of one convolution, each of which is added to the output of the one before (Res2Net)."""

    def __init__(self, parts: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.stem, self.head = nn.Conv2d(3, parts * width, 1), nn.Conv2d(parts * width, 2, 1)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(parts - 1))

    def forward(self, x):
        parts = torch.split(self.stem(x).relu(), self.width, 1)
        made = [parts[0]]
        for conv, part in zip(self.convs, parts[1:], strict=True):
            made.append(conv(part + made[-1]).relu())
        return self.head(torch.cat(made, 1))


class Positions(nn.Module):
    """Tokens with a class token, embedded positions and a scale for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, width, 3, stride=3), nn.Linear(width, 2)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 5, width))
        self.scale, self.inner = nn.Parameter(torch.rand(width)), nn.Linear(width, width)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        return self.head((x + self.scale * self.inner(x).relu()).mean(1))


def check(net: nn.Module, units: dict[str, int]) -> None:
    """Prune: removing equals masking, in both modes, and a file and a checkpoint give the thin network back."""
    torch.manual_seed(0)
    net = random_statistics(net)
    graph = check_removal(net, IMAGES)
    assert {name: group.units for name, group in graph.groups.items()} == units
    dense, thin = copy.deepcopy(net), copy.deepcopy(net)
    lc.ChannelPruning({name: {"channels": 0.5} for name in units}).apply(thin, IMAGES)
    with torch.no_grad():
        training(copy.deepcopy(thin), IMAGES)
    resumed, loaded = given_back(thin, dense, IMAGES)
    for other in (resumed.eval(), loaded):
        torch.testing.assert_close(other(IMAGES), thin.eval()(IMAGES))


@given(st.integers(2, 3), st.integers(2, 6))
@settings(max_examples=4, deadline=None)
def test_split_attention(radix, width):
    check(SplitAttention(radix, width), {"stem": 2, "conv": width, "down": 4})


@given(st.integers(2, 3), st.integers(3, 6), st.booleans())
@settings(max_examples=6, deadline=None)
def test_selective_kernels(paths, width, by_part):
    check(SelectiveKernels(paths, width, by_part), {"stem": width, "paths.0": 6, "down": 3})


def test_a_number_that_two_widths_share_follows_its_own():
    net = random_statistics(SelectiveKernels(2, 6, True))  # parts of 6 channels, read by branches of as many
    lc.ChannelPruning({"paths.0": {"channels": 0.5}}).apply(net, IMAGES)
    assert net(IMAGES).shape[1] == 2
    assert net.width == 6


@pytest.mark.parametrize("make", [lambda: SelectiveKernels(2, 5, True), lambda: SplitAttention(2, 6)])
def test_what_numbers_tell_whole_is_not_sought_by_halves(make, monkeypatch):
    probed = []
    difference = verify_channels._Probe.difference
    monkeypatch.setattr(
        verify_channels._Probe, "difference", lambda probe, groups: probed.append(probe) or difference(probe, groups)
    )
    net = make()
    graph = trace_channels(net, measure.measure(net, IMAGES), IMAGES)
    assert len(graph.groups) == 3
    assert len(probed) <= 3  # what the other way tells, and the numbers in one mode or two


@given(st.integers(2, 4))
@settings(max_examples=3, deadline=None)
def test_shuffle_and_chunk(quarter):
    check(Shuffled(2 * quarter, 2), {"stem": 2 * quarter})


@given(st.integers(2, 4), st.integers(2, 6))
@settings(max_examples=4, deadline=None)
def test_parts_of_a_width(parts, width):
    check(Hierarchical(parts, width), {"stem": width, f"convs.{parts - 2}": width})


def test_parameters_go_with_the_stream():
    check(Positions(8), {"stem": 8})


def test_what_ends_in_an_unknown_operation_stays():
    class Sorted(Positions):
        def forward(self, x):
            return self.head(self.stem(x).flatten(2).mean(2).sort(1).values)

    graph = trace_channels(net := Sorted(8), measure.measure(net, IMAGES), IMAGES)
    assert "stem" in graph.kept_whole


def test_numbers_are_ones_that_the_network_has():
    net = SelectiveKernels(2, 4, False)
    set_numbers(net, {"in_channels": 4})
    assert (net.in_channels, numbers_of(net)) == (4, {"in_channels": 4})
    for wrong in ({"in_channels": 9}, {"in_channels": 0}, {"in_channels": "2"}, {"training": 1}, {"paths.9.x": 2}):
        with pytest.raises(CompressError, match="cannot be set to"):
            set_numbers(net, wrong)


class Sliding(nn.Module):
    """A gate for each channel, by a convolution over the means of its neighbors (ECA-Net)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem, self.slide = nn.Conv2d(3, width, 3), nn.Conv1d(1, 1, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        gate = self.slide(x.mean((2, 3)).view(len(x), 1, -1)).sigmoid().view(len(x), -1, 1, 1)
        return self.head(x * gate.expand_as(x))


def test_a_convolution_over_channels_runs_over_those_that_stay():
    torch.manual_seed(0)
    net = random_statistics(Sliding(8))
    dense, profile, callback = copy.deepcopy(net), measure.measure(net, IMAGES), lc.ChannelPruning()
    assert {choice.layer: len(choice.values) for choice in callback.choices(net, profile, IMAGES)} == {"stem": 7}
    plan = lc.Plan({"stem": {"channels": 0.5}})
    callback.with_plan(plan).apply(net, IMAGES)
    assert measure.measure(net, IMAGES) == callback.predict(plan, profile)
    kept = callback.criterion.kept(trace_channels(dense, profile, IMAGES).groups["stem"], dense, 4)
    with torch.no_grad():
        x = dense.norm(dense.stem(IMAGES)).relu()[:, kept]
        gate = dense.slide(x.mean((2, 3))[:, None]).sigmoid().view(len(x), -1, 1, 1)
        expected = nn.functional.conv2d(x * gate, dense.head.weight[:, kept], dense.head.bias)
    torch.testing.assert_close(net(IMAGES), expected)


class Biased(nn.Module):
    """Attention with a bias for each head and distance, whose rows are one head after another (CoAtNet, LeViT)."""

    def __init__(self, heads: int, size: int, by_head: bool, shape: bool) -> None:
        super().__init__()
        self.num_heads, self.key_dim, self.all_values = heads, size, heads * size
        self.by_head, self.tokens = by_head, 9
        self.bias_shape = (9, 9, heads) if shape else None
        self.table = nn.Parameter(torch.randn(17, heads))
        self.register_buffer("places", torch.arange(9)[:, None] - torch.arange(9) + 8)
        self.stem, self.qkv = nn.Linear(3, 8), nn.Linear(8, 3 * heads * size)
        self.proj, self.head = nn.Linear(heads * size, 8), nn.Linear(8, 2)

    def bias(self):
        if self.bias_shape is None:
            return self.table[self.places].permute(2, 0, 1)
        return self.table[self.places.view(-1)].view(self.bias_shape).permute(2, 0, 1)

    def forward(self, x):
        x = self.stem(x[:, :, :3, :3].flatten(2).transpose(1, 2))
        if self.by_head:
            q, k, v = self.qkv(x).view(len(x), 9, self.num_heads, -1).split([self.key_dim] * 3, 3)
        else:
            q, k, v = self.qkv(x).reshape(len(x), 9, 3, self.num_heads, -1).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        weights = (q @ k.transpose(-2, -1) * self.key_dim**-0.5 + self.bias()).softmax(-1)
        return self.head(x + self.proj((weights @ v).transpose(1, 2).reshape(len(x), 9, self.all_values)))


@given(st.integers(2, 4), st.integers(2, 5), st.booleans(), st.booleans())
@settings(max_examples=5, deadline=None)
def test_heads_with_a_table_of_biases(heads, size, by_head, shape):
    torch.manual_seed(0)
    net = Biased(heads, size, by_head, shape).eval()
    profile = measure.measure(net, IMAGES)
    graph = trace_channels(net, profile, IMAGES)
    assert {(name, group.units, group.knob) for name, group in graph.groups.items()} == {
        ("stem", 8, "channels"), ("qkv", heads, "heads")
    }  # fmt: skip
    thin, masked = copy.deepcopy(net), copy.deepcopy(net)
    keep = {"qkv": torch.tensor([heads - 1])}
    remove(thin, graph, keep)
    assert (thin.num_heads, thin.key_dim, thin.table.shape) == (1, size, (17, 1))
    assert measure.measure(thin, IMAGES) == graph.shrink(profile, {"qkv": 1})
    rows = next(m for m in graph.groups["qkv"].members if m.layer == "qkv").index[:-1].flatten()
    masked.qkv.weight.data[rows] = 0
    masked.qkv.bias.data[rows] = 0
    torch.testing.assert_close(thin(IMAGES), masked(IMAGES))
    with TemporaryDirectory() as folder:
        lc.save(thin, path := Path(folder) / "a.safetensors", example_input=IMAGES)
        torch.testing.assert_close(lc.load(path, net)(IMAGES), thin(IMAGES))
