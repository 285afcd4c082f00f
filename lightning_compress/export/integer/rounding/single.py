"""One rounding in float32, as XNNPACK does it; all that ExecuTorch runs in integers.

    y = rint(float32(sum) * (s_x s_w / s_y))

Sums of two tensors use integer multipliers of 21 bits and one shift that rounds half up; average pooling is that of
TFLite's own kernels. Found equal to ExecuTorch 1.5.1 in every value (tests/test_executorch.py).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor
from typing_extensions import override

from lightning_compress.export.integer.graph import Grid
from lightning_compress.export.integer.rounding.float_rescale import float_rescale
from lightning_compress.export.integer.rounding.rounding import Rounding
from lightning_compress.export.integer.rounding.zero_point import half_away

ADD_BITS = 20


class SingleRounding(Rounding):
    """XNNPACK's arithmetic."""

    @override
    def rescale(self, sums: Tensor, unit: Grid, weight_scale: np.ndarray, out: Grid) -> Tensor:
        return float_rescale(sums, unit, weight_scale, out)

    @override
    def add(self, a: Tensor, a_grid: Grid, b: Tensor, b_grid: Grid, out: Grid) -> Tensor:
        ratios = [np.float32(grid.scale) / np.float32(out.scale) for grid in (a_grid, b_grid)]
        shift = ADD_BITS - int(np.floor(np.log2(max(ratios))))
        a_factor, b_factor = (int(np.rint(np.ldexp(float(ratio), shift))) for ratio in ratios)
        return ((1 << (shift - 1)) + a * a_factor + b * b_factor) >> shift

    @override
    def average(self, sums: Tensor, count: int, grid: Grid) -> Tensor:
        return half_away(sums, count, grid)
