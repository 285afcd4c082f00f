"""Fixed-point multiplication with two roundings, as TFLite-Micro's reference kernels do it (after gemmlowp).

    y = rounding_shift(high_half(sum * M), n),      s_x s_w / s_y = M 2^-31 2^-n,  M of 31 bits

The first rounding is half towards plus infinity, the second half away from zero. CMSIS-NN does the same by default.
Found equal to tflite-micro in every value (tests/test_parity.py).
"""

from __future__ import annotations

from math import frexp
from typing import final

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lightning_compress.export.integer.graph import Grid
from lightning_compress.export.integer.rounding.rounding import Rounding
from lightning_compress.export.integer.rounding.zero_point import half_away

ADD_SHIFT = 20


@final
class DoubleRounding(Rounding):
    """TFLite-Micro's arithmetic."""

    @override
    def rescale(self, sums: Tensor, unit: Grid, weight_scale: np.ndarray, out: Grid) -> Tensor:
        factors = float(np.float32(unit.scale)) * weight_scale.astype(np.float64) / float(np.float32(out.scale))
        return _multiply(sums, factors.reshape(-1))

    @override
    def add(self, a: Tensor, a_grid: Grid, b: Tensor, b_grid: Grid, out: Grid) -> Tensor:
        a_scale, b_scale, o_scale = (float(np.float32(grid.scale)) for grid in (a_grid, b_grid, out))
        largest = 2 * max(a_scale, b_scale)
        total = _multiply(a << ADD_SHIFT, np.array([a_scale / largest]))
        total = total + _multiply(b << ADD_SHIFT, np.array([b_scale / largest]))
        return _multiply(total, np.array([largest / ((1 << ADD_SHIFT) * o_scale)]))

    @override
    def average(self, sums: Tensor, count: int, grid: Grid) -> Tensor:
        return half_away(sums, count, grid)


def _multiply(values: Tensor, factors: np.ndarray) -> Tensor:
    """Return ``values * factors`` in fixed point; one factor for each entry of dimension 1, or one in all."""
    pairs = [_fixed_point(float(factor)) for factor in factors]
    shape = (1, -1, *[1] * (values.dim() - 2))
    mantissas, shifts = (torch.tensor(column).view(shape) for column in zip(*pairs, strict=True))
    left, right = shifts.clamp_min(0), (-shifts).clamp_min(0)
    return _rounding_shift(_high_half(values << left, mantissas), right)


def _fixed_point(factor: float) -> tuple[int, int]:
    """Return ``(M, n)`` with ``factor == M * 2 ** (n - 31)`` and M of 31 bits."""
    if factor == 0.0:
        return 0, 0
    fraction, shift = frexp(factor)
    mantissa = int(np.floor(fraction * (1 << 31) + 0.5))
    if mantissa == 1 << 31:
        mantissa, shift = mantissa // 2, shift + 1
    return (0, 0) if shift < -31 else (mantissa, shift)


def _high_half(a: Tensor, b: Tensor) -> Tensor:
    """Return ``round(a * b / 2^31)``, ties towards plus infinity for both signs."""
    product = a * b
    nudge = torch.where(product >= 0, 1 << 30, 1 - (1 << 30))
    return torch.div(product + nudge, 1 << 31, rounding_mode="trunc")


def _rounding_shift(values: Tensor, bits: Tensor) -> Tensor:
    """Return ``values / 2^bits``, rounded half away from zero."""
    mask = (torch.ones_like(bits) << bits) - 1
    remainder = values & mask
    threshold = (mask >> 1) + (values < 0).long()
    return (values >> bits) + (remainder > threshold).long()
