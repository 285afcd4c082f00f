"""Run a graph as a runtime does, value by value.

Convolutions and products of levels are computed in float64, which is exact for sums below 2^53; what follows is int64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import singledispatch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_compress.export.integer.graph import (
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
from lightning_compress.export.integer.marked import no_form
from lightning_compress.export.integer.rounding.rounding import Rounding
from lightning_compress.surgery.row_layout import swapped

Levels = Mapping[str, Tensor]


def to_levels(x: Tensor, grid: Grid) -> Tensor:
    """Return the levels (int64) that stand for float values."""
    return (x.float() / float(np.float32(grid.scale))).round().clamp(grid.low, grid.high).long()


def to_values(levels: Tensor, grid: Grid) -> Tensor:
    """Return the float32 values that levels stand for."""
    return levels.float() * float(np.float32(grid.scale))


@torch.no_grad()
def emulate(graph: Graph, x: Tensor, rounding: Rounding) -> Tensor:
    """Return the levels of the output.

    Args:
        graph: in integers.
        x: input values, float, or levels, int64; ``(batch, ...)``.
        rounding: of the runtime.
    """
    found = {graph.input: to_levels(x, graph.grid(graph.input)) if x.is_floating_point() else x}
    for operation in graph.operations:
        levels = run(operation, graph, found, rounding)
        low, high = graph.grid(operation.output).limits(getattr(operation, "bounds", (None, None)))
        found[operation.output] = levels.clamp(low, high)
    return found[graph.output]


@singledispatch
def run(operation: Operation, graph: Graph, found: Levels, rounding: Rounding) -> Tensor:
    """Return the output levels of one operation, not clipped yet."""
    raise no_form(operation, "the emulation")


@run.register
def _(operation: Conv, graph: Graph, found: Levels, rounding: Rounding) -> Tensor:
    top, bottom, left, right = operation.padding
    x = F.pad(found[operation.inputs[0]].double(), (left, right, top, bottom))
    weight = torch.from_numpy(operation.weight.astype(np.float64))
    bias = torch.from_numpy(operation.bias.astype(np.float64))
    sums = F.conv2d(x, weight, bias, operation.stride, 0, operation.dilation, operation.groups)
    return _rescaled(operation, sums, graph, rounding)


@run.register
def _(operation: ConvTranspose, graph: Graph, found: Levels, rounding: Rounding) -> Tensor:
    weight = swapped(torch.from_numpy(operation.weight.astype(np.float64)), operation.groups)
    sums = F.conv_transpose2d(
        found[operation.inputs[0]].double(), weight, torch.from_numpy(operation.bias.astype(np.float64)),
        operation.stride, operation.padding, operation.output_padding, operation.groups, operation.dilation,
    )  # fmt: skip
    return _rescaled(operation, sums, graph, rounding)


@run.register
def _(operation: Linear, graph: Graph, found: Levels, rounding: Rounding) -> Tensor:
    weight = torch.from_numpy(operation.weight.astype(np.float64))
    bias = torch.from_numpy(operation.bias.astype(np.float64))
    return _rescaled(operation, F.linear(found[operation.inputs[0]].double(), weight, bias), graph, rounding)


def _rescaled(operation: Weighted, sums: Tensor, graph: Graph, rounding: Rounding) -> Tensor:
    unit, out = graph.grid(operation.inputs[0]), graph.grid(operation.output)
    return rounding.rescale(sums.round().long(), unit, operation.scales, out)


@run.register
def _(operation: Add, graph: Graph, found: Levels, rounding: Rounding) -> Tensor:
    a, b = operation.inputs
    return rounding.add(found[a], graph.grid(a), found[b], graph.grid(b), graph.grid(operation.output))


@run.register
def _(operation: Multiply, graph: Graph, found: Levels, rounding: Rounding) -> Tensor:
    a, b = operation.inputs
    return rounding.multiply(found[a], graph.grid(a), found[b], graph.grid(b), graph.grid(operation.output))


@run.register
def _(operation: Sigmoid, graph: Graph, found: Levels, rounding: Rounding) -> Tensor:
    return _by_table(rounding.sigmoid, operation, graph, found)


@run.register
def _(operation: HardSwish, graph: Graph, found: Levels, rounding: Rounding) -> Tensor:
    return _by_table(rounding.hard_swish, operation, graph, found)


def _by_table(
    function: Callable[[Tensor, Grid, Grid], Tensor], operation: Operation, graph: Graph, found: Levels
) -> Tensor:
    """Return a function of levels, computed once for each level that there can be."""
    (name,) = operation.inputs
    grid = graph.grid(name)
    table = function(torch.arange(grid.low, grid.high + 1).view(1, -1), grid, graph.grid(operation.output))
    return table.flatten()[found[name] - grid.low]


@run.register
def _(operation: Requantize, graph: Graph, found: Levels, rounding: Rounding) -> Tensor:
    (name,) = operation.inputs
    return rounding.requantize(found[name], graph.grid(name), graph.grid(operation.output))


@run.register
def _(operation: Concat, graph: Graph, found: Levels, rounding: Rounding) -> Tensor:
    return torch.cat([found[name] for name in operation.inputs], 1)


@run.register
def _(operation: AveragePool, graph: Graph, found: Levels, rounding: Rounding) -> Tensor:
    (name,) = operation.inputs
    return rounding.average_pool(found[name], operation.kernel, operation.stride, graph.grid(name))


@run.register
def _(operation: MaxPool, graph: Graph, found: Levels, rounding: Rounding) -> Tensor:
    top, bottom, left, right = operation.padding
    x = F.pad(found[operation.inputs[0]].double(), (left, right, top, bottom), value=-np.inf)
    return F.max_pool2d(x, operation.kernel, operation.stride).long()


@run.register
def _(operation: Reshape, graph: Graph, found: Levels, rounding: Rounding) -> Tensor:
    return found[operation.inputs[0]].reshape(-1, *graph.tensors[operation.output].shape)


@run.register
def _(operation: Pad, graph: Graph, found: Levels, rounding: Rounding) -> Tensor:
    top, bottom, left, right = operation.padding
    return F.pad(found[operation.inputs[0]], (left, right, top, bottom))


@run.register
def _(operation: Clip, graph: Graph, found: Levels, rounding: Rounding) -> Tensor:
    return found[operation.inputs[0]]
