"""Activation functions as TFLite's reference kernels compute them on int8: in fixed point, without tables.

Source: gemmlowp's ``fixedpoint.h`` (exponentials by a polynomial on [-1/4, 0) and factors exp(-2^n), division by three
steps of Newton and Raphson) and the kernels of TFLite-Micro that call it. Found equal to tflite-micro in every value
(tests/test_integer_kernels.py).
"""

from __future__ import annotations

from math import floor, frexp

import numpy as np
import torch
from torch import Tensor

from lightning_compress.export.integer.graph import Grid
from lightning_compress.export.integer.rounding.fixed_point import (
    fixed_point,
    high_half,
    multiply,
    rounding_shift,
)

ONE = (1 << 31) - 1
FRACTION = 27  # bits behind the point of what the logistic function reads: -16 to 16
LEAST, MOST = -(1 << 31), (1 << 31) - 1
EXP_OF_POWERS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)  # exp(-1/4), exp(-1/2) ... x 2^31
EXP_OF_EIGHTH, THIRD = 1895147668, 715827883
C48_OVER_17, C32_OVER_17 = 1515870810, 1010580540  # x 2^29


def logistic(levels: Tensor, grid: Grid) -> Tensor:
    """Return the logistic function in steps of 1/256, from 0 to 255.

    Args:
        levels: int64.
        grid: of the levels.
    """
    factor = float(np.float32(grid.scale)) * (1 << FRACTION)
    radius = floor(15 * (1 << FRACTION) / 2.0 ** frexp(factor)[1])
    inside = multiply(levels.clamp(-radius, radius), np.array([factor]))
    positive = _logistic_of_positive(inside.abs())
    found = torch.where(inside > 0, positive, torch.where(inside == 0, 1 << 30, ONE - positive))
    found = _shift(found, 23).clamp(0, 255)
    return torch.where(levels <= -radius, 0, torch.where(levels >= radius, 255, found))


def hard_swish(levels: Tensor, grid: Grid, out: Grid) -> Tensor:
    """Return ``x * relu6(x + 3) / 6`` on the output's grid, in 16 bits."""
    fine = np.float32(1 / 128) * np.float32(grid.scale)
    to_out, out_shift = _fixed_point_of_16_bits(float(fine / np.float32(out.scale)))
    to_relu, relu_shift = _fixed_point_of_16_bits(float(fine / np.float32(3 / 32768)))
    x = levels << 7
    linear = high_half(x, to_out, 15)
    relu = _saturated(x << (relu_shift - 1)) if relu_shift > 0 else x
    relu = high_half(relu, to_relu, 15)
    relu = _saturated(relu << 1) if relu_shift > 0 else _shift(relu, -relu_shift)
    relu = (relu + (1 << 15)) >> 1
    product = torch.div(relu * linear, 1 << 15, rounding_mode="trunc")
    return _shift(product << max(out_shift, 0), max(-out_shift, 0))


def _logistic_of_positive(x: Tensor) -> Tensor:
    """Return ``1 / (1 + exp(-x))`` x 2^31 for x of 27 bits behind the point."""
    half = _half_sum(_exp_of_negative(-x))
    y = C48_OVER_17 - high_half(half, C32_OVER_17)  # 29 bits behind the point
    for _ in range(3):
        y = y + _within(high_half(y, (1 << 29) - high_half(half, y)) << 2)
    return _within(y << 1)


def _half_sum(x: Tensor) -> Tensor:
    total = x + ONE
    return torch.div(total + torch.where(total >= 0, 1, -1), 2, rounding_mode="trunc")


def _exp_of_negative(x: Tensor) -> Tensor:
    """Return ``exp(x)`` x 2^31 for x <= 0 of 27 bits behind the point."""
    quarter = 1 << (FRACTION - 2)
    rest = (x & (quarter - 1)) - quarter
    found = _exp_of_small(rest << 4)
    remainder = rest - x
    for power, factor in enumerate(EXP_OF_POWERS, -2):
        if power < 31 - FRACTION:
            found = torch.where((remainder & (1 << (FRACTION + power))) != 0, high_half(found, factor), found)
    return torch.where(x == 0, ONE, found)


def _exp_of_small(x: Tensor) -> Tensor:
    """Return ``exp(x)`` x 2^31 for -1/4 <= x < 0 of 31 bits behind the point: a series around -1/8."""
    x = x + (1 << 28)
    x2 = high_half(x, x)
    x3, x4 = high_half(x2, x), high_half(x2, x2)
    tail = _shift(high_half(_shift(x4, 2) + x3, THIRD) + x2, 1)
    return EXP_OF_EIGHTH + high_half(x + tail, EXP_OF_EIGHTH)


def _shift(values: Tensor, bits: int) -> Tensor:
    return rounding_shift(values, torch.tensor(bits))


def _within(values: Tensor) -> Tensor:
    return values.clamp(LEAST, MOST)


def _saturated(values: Tensor) -> Tensor:
    return values.clamp(-(1 << 15), (1 << 15) - 1)


def _fixed_point_of_16_bits(factor: float) -> tuple[int, int]:
    mantissa, shift = fixed_point(factor)
    return (mantissa + (1 << 15)) >> 16 if mantissa < MOST - (1 << 15) else (1 << 15) - 1, shift
