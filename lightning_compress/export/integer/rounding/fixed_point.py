"""Fixed-point arithmetic of gemmlowp on int64 tensors, which TFLite's reference kernels are written in."""

from __future__ import annotations

from math import frexp

import numpy as np
import torch
from torch import Tensor


def multiply(values: Tensor, factors: np.ndarray) -> Tensor:
    """Return ``values * factors`` in fixed point; one factor for each entry of dimension 1, or one in all."""
    pairs = [fixed_point(float(factor)) for factor in factors]
    shape = (1, -1, *[1] * (values.dim() - 2))
    mantissas, shifts = (torch.tensor(column).view(shape) for column in zip(*pairs, strict=True))
    left, right = shifts.clamp_min(0), (-shifts).clamp_min(0)
    return rounding_shift(high_half(values << left, mantissas), right)


def fixed_point(factor: float) -> tuple[int, int]:
    """Return ``(M, n)`` with ``factor == M * 2 ** (n - 31)`` and M of 31 bits."""
    if factor == 0.0:
        return 0, 0
    fraction, shift = frexp(factor)
    mantissa = int(np.floor(fraction * (1 << 31) + 0.5))
    if mantissa == 1 << 31:
        mantissa, shift = mantissa // 2, shift + 1
    return (0, 0) if shift < -31 else (mantissa, shift)


def high_half(a: Tensor, b: Tensor | int, bits: int = 31) -> Tensor:
    """Return ``round(a * b / 2^bits)``, ties towards plus infinity for both signs."""
    product, half = a * b, 1 << (bits - 1)
    nudge = torch.where(product >= 0, half, 1 - half)
    return torch.div(product + nudge, 1 << bits, rounding_mode="trunc")


def rounding_shift(values: Tensor, bits: Tensor) -> Tensor:
    """Return ``values / 2^bits``, rounded half away from zero."""
    mask = (torch.ones_like(bits) << bits) - 1
    remainder = values & mask
    threshold = (mask >> 1) + (values < 0).long()
    return (values >> bits) + (remainder > threshold).long()
