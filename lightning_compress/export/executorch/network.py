"""A graph as a torch network that ExecuTorch lowers to integer kernels: each tensor on a grid is rounded and read back.

Rounding stands directly behind each operation, also those that only move values: XNNPACK takes an operation in integers
where it finds a dequantization on each side. So an activation function that the ends of int8 do not apply follows as an
operation of its own, on what was rounded before.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from importlib import import_module

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.export.executorch.rewrite import rewritten
from lightning_compress.export.integer.graph import (
    UNBOUNDED,
    Add,
    AveragePool,
    Clip,
    Concat,
    Conv,
    ConvTranspose,
    Graph,
    Grid,
    HardSwish,
    Linear,
    MaxPool,
    Multiply,
    Operation,
    Pad,
    Requantize,
    Reshape,
    Sigmoid,
    Weighted,
)
from lightning_compress.export.integer.marked import NoIntegerFormError, no_form
from lightning_compress.export.integer.rounding.zero_point import zero_point
from lightning_compress.surgery.row_layout import swapped

LOWEST, HIGHEST, LARGEST = -128, 127, 127
DECOMPOSED = "torch.ao.quantization.fx._decomposed"  # registers torch.ops.quantized_decomposed; torch imports it late


class GraphNetwork(nn.Module):
    """The network of a graph; levels are int8 buffers, biases float32 multiples of their unit.

    Args:
        graph: in integers or in floating point.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        import_module(DECOMPOSED)
        self.graph = graph = rewritten(graph)
        for i, operation in enumerate(graph.operations):
            if isinstance(operation, Weighted):
                self._store(i, operation)

    def _store(self, i: int, operation: Weighted) -> None:
        bias = operation.bias.astype(np.float64)
        if operation.scale is not None:
            bias = bias * (np.float32(self.graph.grid(operation.inputs[0]).scale) * operation.scale)
            self.register_buffer(f"scale{i}", torch.from_numpy(operation.scale.astype(np.float32)))
            self.register_buffer(f"zero{i}", torch.zeros(len(operation.scale), dtype=torch.int64))
        weight = torch.from_numpy(operation.weight.copy())
        if isinstance(operation, ConvTranspose):
            if operation.scale is not None and (operation.groups > 1 or operation.dilation != (1, 1)):
                raise NoIntegerFormError(
                    f"export: transposed convolution {operation.module!r} has {operation.groups} groups and dilation "
                    f"{operation.dilation}, and XNNPACK's integer kernels in ExecuTorch have one group and dilation 1; "
                    f"use groups=1 and dilation=1"
                )
            weight = swapped(weight, operation.groups).contiguous()
        self.register_buffer(f"weight{i}", weight)
        self.register_buffer(f"bias{i}", torch.from_numpy(bias.astype(np.float32)))

    @override
    def forward(self, x: Tensor) -> Tensor:
        graph = self.graph
        found = {graph.input: stored(x, graph.tensors[graph.input].grid)}
        for i, operation in enumerate(graph.operations):
            grid = graph.tensors[operation.output].grid
            inputs = [self._read(found, name) for name in operation.inputs]
            y = self._weighted(i, operation, inputs[0]) if isinstance(operation, Weighted) else run(operation, *inputs)
            if isinstance(operation, Reshape):
                y = y.reshape(-1, *graph.tensors[operation.output].shape)
            found[operation.output] = stored(_clipped(y, operation, grid), grid)
        return self._read(found, graph.output)

    def _read(self, found: Mapping[str, Tensor], name: str) -> Tensor:
        """Return the float values of a tensor, for one reader: XNNPACK takes no dequantization that two share."""
        grid = self.graph.tensors[name].grid
        return found[name] if grid is None else _values(found[name], grid)

    def _weighted(self, i: int, operation: Weighted, x: Tensor) -> Tensor:
        weight, bias = self.get_buffer(f"weight{i}"), self.get_buffer(f"bias{i}")
        axis = int(isinstance(operation, ConvTranspose))
        if operation.scale is not None:
            weight = torch.ops.quantized_decomposed.dequantize_per_channel.default(
                weight, self.get_buffer(f"scale{i}"), self.get_buffer(f"zero{i}"), axis, -LARGEST, LARGEST, torch.int8
            )
        return weighted(operation, x, weight, bias)


def stored(x: Tensor, grid: Grid | None) -> Tensor:
    """Return a tensor as int8; as it is where it has no grid."""
    if grid is None:
        return x
    return torch.ops.quantized_decomposed.quantize_per_tensor.default(x, *_numbers(grid))


def _values(levels: Tensor, grid: Grid) -> Tensor:
    return torch.ops.quantized_decomposed.dequantize_per_tensor.default(levels, *_numbers(grid))


def _numbers(grid: Grid) -> tuple[float, int, int, int, torch.dtype]:
    return grid.scale, zero_point(grid), LOWEST, HIGHEST, torch.int8


def _clipped(y: Tensor, operation: Operation, grid: Grid | None) -> Tensor:
    """Apply an activation function, unless the ends of int8, or the grid that was read, do that already."""
    bounds = getattr(operation, "bounds", UNBOUNDED)
    if grid is None:
        return y if bounds == UNBOUNDED else torch.clamp(y, *bounds)
    low, high = grid.limits(bounds)
    full = (low + zero_point(grid), high + zero_point(grid)) == (LOWEST, HIGHEST)
    if full or isinstance(operation, Reshape | MaxPool | Pad | Concat):
        return y
    y = y if isinstance(operation, Clip) else _values(stored(y, grid), grid)
    return torch.clamp(y, low * grid.scale, high * grid.scale)


@singledispatch
def weighted(operation: Weighted, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the float output of an operation with a weight."""
    raise no_form(operation, ".pte files")


@weighted.register
def _(operation: Conv, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    top, _, left, _ = operation.padding
    return F.conv2d(x, weight, bias, operation.stride, (top, left), operation.dilation, operation.groups)


@weighted.register
def _(operation: ConvTranspose, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv_transpose2d(
        x, weight, bias, operation.stride, operation.padding, operation.output_padding, operation.groups,
        operation.dilation,
    )  # fmt: skip


@weighted.register
def _(operation: Linear, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight, bias)


@singledispatch
def run(operation: Operation, *inputs: Tensor) -> Tensor:
    """Return the float output of an operation without a weight; its activation function is not applied yet."""
    raise no_form(operation, ".pte files")


@run.register
def _(operation: Add, a: Tensor, b: Tensor) -> Tensor:
    return a + b


@run.register
def _(operation: Multiply, a: Tensor, b: Tensor) -> Tensor:
    return a * b


@run.register
def _(operation: Sigmoid, x: Tensor) -> Tensor:
    return torch.sigmoid(x)


@run.register
def _(operation: HardSwish, x: Tensor) -> Tensor:
    return F.hardswish(x)


@run.register
def _(operation: Concat, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, 1)


@run.register(Reshape)
@run.register(Requantize)
@run.register(Clip)
def _(operation: Operation, x: Tensor) -> Tensor:
    return x


@run.register
def _(operation: AveragePool, x: Tensor) -> Tensor:
    return F.avg_pool2d(x, operation.kernel, operation.stride)


@run.register
def _(operation: MaxPool, x: Tensor) -> Tensor:
    top, _, left, _ = operation.padding
    return F.max_pool2d(x, operation.kernel, operation.stride, (top, left))


@run.register
def _(operation: Pad, x: Tensor) -> Tensor:
    top, bottom, left, right = operation.padding
    return F.pad(x, (left, right, top, bottom))
