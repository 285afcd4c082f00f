"""Fixed-point multiplication with two roundings, as TFLite-Micro's reference kernels do it (after gemmlowp).

    y = rounding_shift(high_half(sum * M), n),      s_x s_w / s_y = M 2^-31 2^-n,  M of 31 bits

The first rounding is half towards plus infinity, the second half away from zero. CMSIS-NN does the same by default.
Found equal to tflite-micro in every value (tests/test_integer_kernels.py).
"""

from __future__ import annotations

from typing import final

import numpy as np
from torch import Tensor
from typing_extensions import override

from lightning_compress.export.integer.graph import Grid
from lightning_compress.export.integer.rounding.activation_functions import hard_swish, logistic
from lightning_compress.export.integer.rounding.fixed_point import multiply
from lightning_compress.export.integer.rounding.rounding import Rounding
from lightning_compress.export.integer.rounding.zero_point import half_away

ADD_SHIFT = 20


@final
class DoubleRounding(Rounding):
    """TFLite-Micro's arithmetic."""

    @override
    def rescale(self, sums: Tensor, unit: Grid, weight_scale: np.ndarray, out: Grid) -> Tensor:
        factors = float(np.float32(unit.scale)) * weight_scale.astype(np.float64) / float(np.float32(out.scale))
        return multiply(sums, factors.reshape(-1))

    @override
    def add(self, a: Tensor, a_grid: Grid, b: Tensor, b_grid: Grid, out: Grid) -> Tensor:
        a_scale, b_scale, o_scale = (float(np.float32(grid.scale)) for grid in (a_grid, b_grid, out))
        largest = 2 * max(a_scale, b_scale)
        total = multiply(a << ADD_SHIFT, np.array([a_scale / largest]))
        total = total + multiply(b << ADD_SHIFT, np.array([b_scale / largest]))
        return multiply(total, np.array([largest / ((1 << ADD_SHIFT) * o_scale)]))

    @override
    def average(self, sums: Tensor, count: int, grid: Grid) -> Tensor:
        return half_away(sums, count, grid)

    @override
    def sigmoid(self, levels: Tensor, grid: Grid, out: Grid) -> Tensor:
        return logistic(levels, grid)

    @override
    def hard_swish(self, levels: Tensor, grid: Grid, out: Grid) -> Tensor:
        return hard_swish(levels, grid, out)
