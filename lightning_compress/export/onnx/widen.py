"""Give convolutions the numbers of channels for which ONNX Runtime has its fast integer kernels.

Its kernels for x86 compute 16 output channels at once from 4 input channels at once; any other convolution is unrolled
into a matrix product, which takes longer: with version 1.32 and AVX-512 VNNI 8 -> 8 channels of 3x3 took 1.4 times as
long as 16 -> 16, and 3 -> 16 took 1.9 times as long as 4 -> 16. So channels of zeros are added behind a convolution and
read by weights of zero; no value changes. The file holds the weights without them; the runtime adds them when it loads
the file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lightning_compress.export.integer.graph import (
    Add,
    AveragePool,
    Clip,
    Conv,
    Graph,
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

OUTPUTS, INPUTS = 16, 4  # channels that the kernels compute, and read, at once
ALIKE = (Add, AveragePool, Clip, HardSwish, MaxPool, Multiply, Pad, Requantize, Sigmoid)  # channel by channel


@dataclass(frozen=True)
class MoreChannels(Operation):
    """Zeros behind the channels of the network's input."""


def fast_channels(channels: int) -> int:
    """Return the number of channels, at least as many, of which the fast kernels make and read a tensor."""
    return max(OUTPUTS, -(-channels // INPUTS) * INPUTS)


def widened(graph: Graph) -> Graph:
    """Return a graph in integers with channels of zeros where they make it faster; another graph as it is."""
    if not graph.integer:
        return graph
    wide = {name: fast_channels(graph.tensors[name].shape[0]) for name in _able(graph)}
    tensors = dict(graph.tensors)
    for name, channels in wide.items():
        tensors[name] = replace(tensors[name], shape=(channels, *tensors[name].shape[1:]))
    operations = [_widened(operation, graph, wide) for operation in graph.operations]
    return _with_wide_input(replace(graph, tensors=tensors, operations=operations))


def _able(graph: Graph) -> set[str]:
    """Return the maps that can have more channels: convolutions make them, and whoever reads them can ignore zeros."""
    able = {
        operation.output
        for operation in graph.operations
        if len(graph.tensors[operation.output].shape) == 3
        and operation.output != graph.output
        and (isinstance(operation, ALIKE) or (isinstance(operation, Conv) and operation.groups == 1))
    }
    before: set[str] = set()
    while before != able:  # one tensor that must stay keeps those that are joined with it
        before = set(able)
        for operation in graph.operations:
            joined = {operation.output, *operation.inputs}
            if isinstance(operation, ALIKE):
                able -= joined if joined - able else set()
            elif not _ignores_zeros(operation, graph):
                able -= set(operation.inputs)
    return able


def _ignores_zeros(operation: Operation, graph: Graph) -> bool:
    if isinstance(operation, Reshape):
        flat = len(graph.tensors[operation.output].shape) == 1 and operation.output != graph.output
        return flat and all(isinstance(reader, Linear) for reader in graph.readers(operation.output))
    return isinstance(operation, Conv) and operation.groups == 1


def _widened(operation: Operation, graph: Graph, wide: dict[str, int]) -> Operation:
    if not isinstance(operation, Weighted):
        return operation
    name = operation.inputs[0]
    more = {1: wide[name] - graph.tensors[name].shape[0] if name in wide else 0}
    if isinstance(operation, Linear):
        more[1] = _more_columns(name, graph, wide)
    more[0] = wide[operation.output] - len(operation.bias) if operation.output in wide else 0
    sides = [(0, more.get(axis, 0)) for axis in range(operation.weight.ndim)]
    return replace(
        operation, weight=np.pad(operation.weight, sides), bias=np.pad(operation.bias, (0, more[0])),
        scale=np.pad(operation.scales, (0, more[0]), mode="edge"),
    )  # fmt: skip


def _more_columns(name: str, graph: Graph, wide: dict[str, int]) -> int:
    """Return how many values a linear layer reads besides its own, where it reads a flattened map."""
    for operation in graph.operations:
        if operation.output == name and isinstance(operation, Reshape) and operation.inputs[0] in wide:
            channels, *sides = graph.tensors[operation.inputs[0]].shape
            return (wide[operation.inputs[0]] - channels) * int(np.prod(sides, dtype=np.int64))
    return 0


def _with_wide_input(graph: Graph) -> Graph:
    """Return the graph with a multiple of the channels that kernels read at once, where convolutions read the input."""
    before, readers = graph.tensors[graph.input], graph.readers(graph.input)
    more = -before.shape[0] % INPUTS
    if not more or not all(isinstance(reader, Conv) and reader.groups == 1 for reader in readers):
        return graph
    name = f"{before.name}:wide"
    after = replace(before, name=name, shape=(before.shape[0] + more, *before.shape[1:]))
    operations: list[Operation] = [MoreChannels("", (before.name,), name)]
    for operation in graph.operations:
        if isinstance(operation, Conv) and operation.inputs == (before.name,):
            weight = np.pad(operation.weight, ((0, 0), (0, more), (0, 0), (0, 0)))
            operation = replace(operation, inputs=(name,), weight=weight)
        operations.append(operation)
    return replace(
        graph, tensors={**graph.tensors, before.name: replace(before, grid=None), name: after}, operations=operations
    )
