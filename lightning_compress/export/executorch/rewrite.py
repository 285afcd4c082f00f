"""Rewrite a graph into the operations that ExecuTorch runs in integers.

Padding that differs between two sides becomes an operation of its own, since torch's convolutions have none. Average
pooling in integers becomes a depthwise convolution with weights of level 1 and scale 1 / count: ExecuTorch would
average in float32, where sums on a tie fall to either side.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lightning_compress.export.integer.graph import AveragePool, Conv, Graph, Operation, Pad, Tensor


def rewritten(graph: Graph) -> Graph:
    """Return the graph; equal paddings of a tensor are shared."""
    tensors, operations = dict(graph.tensors), list[Operation]()
    for operation in graph.operations:
        if isinstance(operation, AveragePool) and graph.integer:
            operation = _convolution(operation, graph)
        elif isinstance(operation, Conv) and operation.padding[0::2] != operation.padding[1::2]:
            before = graph.tensors[operation.inputs[0]]
            top, bottom, left, right = operation.padding
            name = f"{before.name}:padded {operation.padding}"
            if name not in tensors:
                channels, height, width = before.shape
                tensors[name] = Tensor(name, (channels, height + top + bottom, width + left + right), before.grid)
                operations.append(Pad(operation.module, (before.name,), name, operation.padding))
            operation = replace(operation, inputs=(name,), padding=(0, 0, 0, 0))
        operations.append(operation)
    return replace(graph, tensors=tensors, operations=operations)


def _convolution(pool: AveragePool, graph: Graph) -> Conv:
    channels = graph.tensors[pool.output].shape[0]
    return Conv(
        pool.module, pool.inputs, pool.output, np.ones((channels, 1, *pool.kernel), np.int8),
        np.full(channels, 1 / (pool.kernel[0] * pool.kernel[1]), np.float32), np.zeros(channels, np.int32), 8,
        stride=pool.stride, groups=channels,
    )  # fmt: skip
