"""A graph as the bytes of a .tflite file."""

from __future__ import annotations

from lightning_compress.export.integer.graph import Graph
from lightning_compress.export.tflite.builder import Builder
from lightning_compress.export.tflite.operators import write


def tflite_bytes(graph: Graph, int4: bool = False) -> bytes:
    """Return the file: inputs and outputs are int8 where the graph is in integers, maps (height, width, channels).

    Args:
        graph: of a network.
        int4: store weights of 4 or fewer bits two a byte; XNNPACK does not run those.

    Raises:
        NoIntegerFormError: an operation has no form in the format.
        CompressError: ai-edge-litert is not installed.
    """
    builder = Builder(graph, int4)
    for operation in graph.operations:
        write(operation, builder)
    return builder.bytes("lightning-compress")
