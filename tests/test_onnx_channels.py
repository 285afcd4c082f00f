"""Channels of zeros for ONNX Runtime's fast kernels: where they are added, that no value changes, and no bytes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_compress.export.integer.completion import complete
from lightning_compress.export.integer.emulate import emulate
from lightning_compress.export.integer.graph import Add, Conv, Linear
from lightning_compress.export.integer.lower import lower
from lightning_compress.export.integer.rounding.floating import FloatRounding
from lightning_compress.export.onnx.builder import Builder
from lightning_compress.export.onnx.widen import MoreChannels, fast_channels, widened

SIZE = 8


class Net(nn.Module):
    """A stem and a residual block of a few channels, then what is in ``end``."""

    def __init__(self, end: nn.Module, channels: int = 6) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU())
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.end(self.relu(self.conv(x) + x))


class Both(nn.Module):
    """Two halves, concatenated."""

    def __init__(self, *halves: nn.Module) -> None:
        super().__init__()
        self.halves, self.pool = nn.ModuleList(halves), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(torch.cat([half(x) for half in self.halves], 1)).flatten(1)


def graph_of(end: nn.Module):
    torch.manual_seed(0)
    x = torch.randn(8, 3, SIZE, SIZE)
    return lower(complete(Net(end).eval(), [x]), x), x


def shapes(graph) -> list[tuple[int, ...]]:
    return [operation.weight.shape for operation in graph.weighted]


ENDS = {
    "flatten": nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 16, 5)),
    "mean": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
    "depthwise": nn.Sequential(nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "concatenation": Both(nn.Conv2d(6, 4, 1), nn.Conv2d(6, 5, 1)),
}


@pytest.mark.parametrize(("channels", "fast"), [(1, 16), (16, 16), (17, 20), (20, 20), (64, 64)])
def test_fast_numbers_of_channels(channels, fast):
    assert fast_channels(channels) == fast


@pytest.mark.parametrize(("end", "expected"), [
    ("flatten", [(16, 4, 3, 3), (16, 16, 3, 3), (5, 16 * 16)]),
    ("mean", [(16, 4, 3, 3), (16, 16, 3, 3), (5, 16)]),
    ("depthwise", [(6, 4, 3, 3), (6, 6, 3, 3), (6, 1, 3, 3)]),  # it reads the sum, which reads the stem
    ("concatenation", [(16, 4, 3, 3), (16, 16, 3, 3), (4, 16, 1, 1), (5, 16, 1, 1)]),
])  # fmt: skip
def test_channels_are_added_where_all_readers_can_ignore_them(end, expected):
    graph, _ = graph_of(ENDS[end])
    wide = widened(graph)
    assert shapes(wide) == expected
    assert isinstance(wide.operations[0], MoreChannels)
    for operation in wide.operations:
        if isinstance(operation, Add):
            assert len({wide.tensors[name].shape for name in (*operation.inputs, operation.output)}) == 1
    assert wide.tensors[wide.output].shape == graph.tensors[graph.output].shape


def test_what_is_fast_already_or_in_floating_point_stays():
    torch.manual_seed(0)
    x = torch.randn(8, 4, SIZE, SIZE)
    net = nn.Sequential(nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 5)).eval()
    graph = lower(complete(net, [x]), x)
    assert shapes(widened(graph)) == shapes(graph)
    floating = lower(net, x, integer=False)
    assert widened(floating) is floating


@pytest.mark.parametrize("end", ENDS)
def test_no_value_changes_and_the_zeros_take_no_bytes(end):
    session = pytest.importorskip("lightning_compress.export.onnx.session")
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="the runtime is not installed")
    write = pytest.importorskip("lightning_compress.export.onnx.write")
    graph, x = graph_of(ENDS[end])
    content = write.onnx_bytes(graph)
    assert len(content) < len(write.written(Builder(graph))) + 400 * len(graph.operations)
    found = session.Session(content)
    scale = graph.grid(graph.output).scale
    assert torch.equal((found.run(x) / scale).round().long(), emulate(graph, x, FloatRounding()))
    weighted = sum(isinstance(operation, Conv | Linear) for operation in graph.operations)
    assert (found.integer, found.floating) == (weighted, ())
