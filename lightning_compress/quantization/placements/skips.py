"""Quantize tensors as ``Tensors`` does, but of the operands of a sum only the skip branch.

TensorRT and OpenVINO compute convolution and sum in one kernel, and keep the convolution's result unrounded for it
(NVIDIA's TensorRT guide, "Q/DQ placement"). Use it for them. It breaks the integer sums of ONNX Runtime and TFLite.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import final

from lightning_compress.quantization.placements.grids import FUSED, LAYERS
from lightning_compress.quantization.placements.tensors import Tensors
from lightning_compress.surgery.graph.dataflow import Dataflow, Operation


@final
class Skips(Tensors):
    """Arguments as for :class:`Tensors`."""

    def unquantized(self, flow: Dataflow, operation: Operation) -> Collection[int]:
        """Return the operand that the convolution before the sum made for it alone; of two, the one made last."""
        alone = [v for v in operation.reads if len(flow.readers(v)) == 1 and self._of_layer(flow, v)]
        return alone and [max(alone)]

    def _of_layer(self, flow: Dataflow, value: int) -> bool:
        writer = flow.writer(value)
        while writer is not None and writer.name in FUSED and len(flow.readers(writer.reads[0])) == 1:
            writer = flow.writer(writer.reads[0])
        return writer is not None and writer.name in LAYERS
