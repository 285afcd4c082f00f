"""Padding that is not the same on both sides: torch's convolutions have none, so it becomes an operation of its own."""

from __future__ import annotations

from dataclasses import replace

from lightning_compress.export.integer.graph import Conv, Graph, Operation, Pad, Tensor


def with_even_padding(graph: Graph) -> Graph:
    """Return the graph in which every convolution pads both sides alike; equal paddings of a tensor are shared."""
    tensors, operations = dict(graph.tensors), list[Operation]()
    for operation in graph.operations:
        if isinstance(operation, Conv) and operation.padding[0::2] != operation.padding[1::2]:
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
