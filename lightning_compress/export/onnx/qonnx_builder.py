"""Collect the nodes of a QONNX model: float values with Quant nodes, which say any width.

Source: Pappalardo et al. 2022 (arXiv 2206.07527) and the operator's specification of the package ``qonnx``.
"""

from __future__ import annotations

from math import ceil, log2
from typing import Any

import numpy as np
from typing_extensions import override

from lightning_compress.export.integer.graph import UNBOUNDED, Bounds
from lightning_compress.export.onnx.builder import OPSET, Builder

DOMAIN, VERSION = "qonnx.custom_op.general", 1


class QonnxBuilder(Builder):
    """A model in which a Quant node behind each tensor and weight rounds it to its grid."""

    @override
    def dequantized(self, name: str, levels: np.ndarray, scale: np.ndarray, axis: int = 0) -> str:
        """Add a weight as float values behind a Quant node, or a bias as float values; return its float name."""
        per_channel = np.float32(scale).reshape([-1 if i == axis else 1 for i in range(levels.ndim)])
        values = self.constant(f"{name}/values", np.float32(levels) * per_channel)
        if levels.dtype != np.int8:
            return values
        largest = int(np.abs(levels.astype(np.int16)).max(initial=1))
        bits = ceil(log2(largest + 1)) + 1
        return self._quant(values, f"{name}/scale", per_channel, bits, name, signed=1, narrow=1)

    @override
    def put(self, tensor: str, value: str, bounds: Bounds = UNBOUNDED) -> None:
        grid = self.graph.tensors[tensor].grid
        if grid is None:
            super().put(tensor, value, bounds)
            return
        value = self.clipped(value, bounds) if grid.limits(bounds) != (grid.low, grid.high) else value
        bits = ceil(log2(grid.high - grid.low + 1))
        signed = int(grid.low < 0)
        self._quant(
            value, f"{tensor}/scale", np.float32(grid.scale), bits, f"{tensor}/value", signed=signed,
            narrow=int(signed and grid.low == -grid.high),
        )  # fmt: skip

    def _quant(self, value: str, name: str, scale: Any, bits: int, output: str, *, signed: int, narrow: int) -> str:
        inputs = [value, self.constant(name, scale), self.constant("zero", np.float32(0)),
                  self.constant(f"bits/{bits}", np.float32(bits))]  # fmt: skip
        return self.node("Quant", inputs, output, domain=DOMAIN, signed=signed, narrow=narrow, rounding_mode="ROUND")

    @override
    def opsets(self) -> list[Any]:
        helper = self.onnx.helper
        return [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
