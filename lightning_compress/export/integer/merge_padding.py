"""Let convolutions do the zero padding before them."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from lightning_compress.export.integer.graph import Conv, Graph, Operation, Pad


def merge_padding(graph: Graph) -> Graph:
    """Return the graph without the paddings that only convolutions read; those take them over."""
    pads = {
        operation.output: operation
        for operation in graph.operations
        if isinstance(operation, Pad)
        and operation.output != graph.output
        and all(isinstance(reader, Conv) for reader in graph.readers(operation.output))
    }
    kept = [_merged(operation, pads) for operation in graph.operations if operation.output not in pads]
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name not in pads}
    return replace(graph, tensors=tensors, operations=kept)


def _merged(operation: Operation, pads: dict[str, Pad]) -> Operation:
    while isinstance(operation, Conv) and operation.inputs[0] in pads:
        pad = pads[operation.inputs[0]]
        padding = tuple(a + b for a, b in zip(operation.padding, pad.padding, strict=True))
        operation = replace(operation, inputs=pad.inputs, padding=cast(tuple[int, int, int, int], padding))
    return operation
