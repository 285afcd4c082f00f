"""ONNX Runtime's arithmetic: integer sums, float32 behind them, one rounding to even.

    y = rint(float32(sum) * (s_x s_w / s_y)),      a + b = rint(a s_a / s_y + b s_b / s_y)

Its kernels for sums use fused multiply-add, which moves ties; values on them may differ by one step.
"""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lightning_compress.export.integer.graph import Grid
from lightning_compress.export.integer.rounding.rounding import Rounding


@final
class FloatRounding(Rounding):
    """The arithmetic of QLinearConv, QLinearAdd and QLinearGlobalAveragePool."""

    @override
    def rescale(self, sums: Tensor, unit: Grid, weight_scale: np.ndarray, out: Grid) -> Tensor:
        factor = np.float32(unit.scale) * weight_scale.astype(np.float32) / np.float32(out.scale)
        factors = torch.from_numpy(factor.reshape(1, -1, *[1] * (sums.dim() - 2)))
        return (sums.float() * factors).round().long()

    @override
    def add(self, a: Tensor, a_grid: Grid, b: Tensor, b_grid: Grid, out: Grid) -> Tensor:
        a_ratio, b_ratio = (float(np.float32(g.scale) / np.float32(out.scale)) for g in (a_grid, b_grid))
        return (a.double() * a_ratio + b.double() * b_ratio).float().round().long()

    @override
    def average(self, sums: Tensor, count: int, grid: Grid) -> Tensor:
        return (sums.double() / count).float().round().long()
