"""ONNX Runtime's arithmetic: integer sums, float32 behind them, one rounding to even.

    y = rint(float32(sum) * (s_x s_w / s_y)),      a + b = rint(fma(a, s_a / s_y, fma(b, s_b / s_y, c)))

Sums are of stored numbers, whose zero points are in the constant c; it moves ties. Found equal to ONNX Runtime 1.32 in
every value on x86 with AVX2 (tests/test_onnx.py); without fused multiply-add values on ties may differ by one step.
"""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lightning_compress.export.integer.graph import Grid
from lightning_compress.export.integer.rounding.float_rescale import float_rescale
from lightning_compress.export.integer.rounding.rounding import Rounding
from lightning_compress.export.integer.rounding.zero_point import unsigned_zero_point


@final
class FloatRounding(Rounding):
    """The arithmetic of QLinearConv, QLinearAdd, QLinearGlobalAveragePool and QLinearAveragePool."""

    @override
    def rescale(self, sums: Tensor, unit: Grid, weight_scale: np.ndarray, out: Grid) -> Tensor:
        return float_rescale(sums, unit, weight_scale, out)

    @override
    def add(self, a: Tensor, a_grid: Grid, b: Tensor, b_grid: Grid, out: Grid) -> Tensor:
        ratios = [np.float32(grid.scale) / np.float32(out.scale) for grid in (a_grid, b_grid)]
        zeros = [np.float32(unsigned_zero_point(grid)) for grid in (a_grid, b_grid, out)]
        rest = zeros[2] - (ratios[0] * zeros[0] + ratios[1] * zeros[1])
        total = torch.full_like(a, float(rest), dtype=torch.float64)
        for levels, ratio, zero in ((b, ratios[1], zeros[1]), (a, ratios[0], zeros[0])):
            total = ((levels.double() + float(zero)) * float(ratio) + total).float().double()  # one rounding
        return total.round().long() - int(zeros[2])

    @override
    def average(self, sums: Tensor, count: int, grid: Grid) -> Tensor:
        scale = np.float32(grid.scale)
        factor = scale / (scale * np.float32(count))  # not 1 / count: which sums are ties depends on its rounding
        return (sums.float() * float(factor)).round().long()

    @override
    def average_pool(self, levels: Tensor, kernel: tuple[int, int], stride: tuple[int, int], grid: Grid) -> Tensor:
        if kernel == tuple(levels.shape[2:]):
            return super().average_pool(levels, kernel, stride, grid)
        scale = np.float32(grid.scale)  # windows are added in float32, value by value, row by row
        values = (levels.float() * float(scale)).unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1])
        total = torch.zeros(values.shape[:4])
        for value in values.flatten(4).unbind(4):
            total = total + value
        zero = unsigned_zero_point(grid)  # added before the rounding, which moves ties
        return (total / (kernel[0] * kernel[1]) / float(scale) + zero).round().long() - zero
