"""Widths that code reads from one tensor and gives another: both lose as many channels, place by place."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_graph import mask_by_hooks
from torch import nn

from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.surgery import measure
from lightning_compress.surgery.graph.channel_labels import labelled
from lightning_compress.surgery.graph.channel_numbers import Width
from lightning_compress.surgery.graph.remove_channels import remove
from lightning_compress.surgery.graph.trace_channels import trace_channels
from lightning_compress.surgery.modes import evaluation


class Reduced(nn.Module):
    """Attention whose keys and values are of fewer places, with the width of the stream in all of its shapes (PVT)."""

    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        width = heads * size
        self.num_heads, self.head_dim = heads, size
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.sr, self.norm = nn.Conv2d(width, width, 2, 2), nn.LayerNorm(width)

    def forward(self, x, side):
        batch, tokens, width = x.shape
        q = self.q(x).reshape(batch, tokens, self.num_heads, -1).permute(0, 2, 1, 3)
        image = x.permute(0, 2, 1).reshape(batch, width, side, side)
        few = self.norm(self.sr(image).reshape(batch, width, -1).permute(0, 2, 1))
        kv = self.kv(few).reshape(batch, -1, 2, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(q, *kv.unbind(0))
        return self.proj(found.transpose(1, 2).reshape(batch, tokens, width))


class Tokens(nn.Module):
    """A stream of tokens through such attention."""

    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        width = heads * size
        self.embed, self.norm, self.attention = nn.Conv2d(3, width, 1), nn.LayerNorm(width), Reduced(heads, size)
        self.hidden, self.out, self.head = nn.Linear(width, 12), nn.Linear(12, width), nn.Linear(width, 2)

    def forward(self, x):
        side, x = x.shape[-1], self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.attention(self.norm(x), side)
        return self.head((x + self.out(self.hidden(x).relu())).mean(1))


@given(st.integers(3, 5), st.integers(2, 4), st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_heads_go_with_what_is_as_wide(heads, size, seed):
    torch.manual_seed(seed)
    net, x = Tokens(heads, size).eval(), torch.randn(2, 3, 6, 6)
    profile = measure.measure(net, x)
    graph = trace_channels(net, profile, x)
    assert {name: (group.units, group.knob) for name, group in graph.groups.items()} == {
        "embed": (heads, "heads"), "hidden": (12, "channels")
    }  # fmt: skip
    together = {member.layer for member in graph.groups["embed"].producers}
    assert {"attention.q", "attention.kv", "attention.sr", "attention.proj", "out"} <= together
    assert list(graph.kept_whole) == ["head"]
    keep = {"embed": torch.arange(1, heads), "hidden": torch.arange(5)}
    masked, thin = mask_by_hooks(net, graph, keep).double(), copy.deepcopy(net)
    remove(thin, graph, keep)
    assert measure.measure(thin, x) == graph.shrink(profile, {"embed": heads - 1, "hidden": 5})
    with torch.no_grad():
        torch.testing.assert_close(thin.double()(x.double()), masked(x.double()))


class Sized(nn.Module):
    """Features of a linear layer are given the width of an image."""

    def __init__(self, read: str) -> None:
        super().__init__()
        self.a, self.b, self.head, self.read = nn.Conv2d(3, 8, 1), nn.Linear(3, 8), nn.Linear(8, 2), read

    def forward(self, x):
        rows, x = self.b(x.mean((2, 3))), self.a(x)
        width = {"shape": x.shape[1], "size": x.size()[1], "size(1)": x.size(1)}[self.read]
        return self.head(rows.relu().view(len(x), width)), x


@pytest.mark.parametrize("read", ["shape", "size", "size(1)"])
def test_however_the_width_is_read(read):
    found = labelled(Sized(read).eval(), torch.randn(2, 3, 5, 5), evaluation)
    assert sorted(sorted(len(side.roots) for side in family) for family in found.families) == [[2], [8, 8, 8]]


def test_a_width_is_a_number_like_others():
    width = Width.of(torch.arange(6).view(2, 3), 1)
    assert (width, width + 1, f"{width}", {3: "a"}[width]) == (3, 4, "3", "a")
    assert torch.zeros(6).view(2, width).shape == (2, 3)


class ChannelsFirst(nn.LayerNorm):
    """A layer norm over the channels of images."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Gated(nn.Module):
    """Half of the channels gates the other half, behind such a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 8, 1), ChannelsFirst(8), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        a, b = self.norm(self.stem(x)).chunk(2, 1)
        return self.head(a * b.sigmoid())


@pytest.mark.parametrize("side", [5, 8])
def test_images_as_wide_as_their_channels_are_many(side):
    torch.manual_seed(0)
    net, x = Gated().eval(), torch.randn(2, 3, side, side)
    assert [len(set(reached.roots)) for reached in labelled(net, x, evaluation).families[0]] == [4, 4, 4]
    graph = trace_channels(net, measure.measure(net, x), x)
    assert {name: group.units for name, group in graph.groups.items()} == {"stem": 4}


class Computed(nn.Module):
    """Features are given a width that is computed from that of an image: such numbers are not followed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head, self.last = nn.Conv2d(3, 8, 1), nn.Linear(3, 8), nn.Linear(8, 2), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        rows, x = self.b(x.mean((2, 3))), self.a(x)
        return self.head(rows.relu().view(len(x), x.shape[1] // 2 * 2)), self.last(x)


def test_what_runs_only_while_both_are_halved_is_not_offered():
    net, x = Computed().eval(), torch.randn(2, 3, 5, 5)
    graph = trace_channels(net, measure.measure(net, x), x)
    assert not graph.groups
    assert "Computed" in graph.kept_whole["a"]


@pytest.mark.parametrize("shares", [(0.5, 0.75), (0.75, 0.5)])
def test_groups_that_run_only_with_equal_shares_are_not_offered(shares):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net, x = timm.create_model("convit_tiny", img_size=32, depth=2, num_classes=5).eval(), torch.randn(2, 3, 32, 32)
    # A head is as wide as the stream by their number.
    choices = ChannelPruning().choices(net, measure.measure(net, x), x)
    plan = {c.layer: {c.knob: share} for c, share in zip(choices, shares * len(choices), strict=False)}
    ChannelPruning(plan).apply(net, x)
    assert net(x).shape == (2, 5)
