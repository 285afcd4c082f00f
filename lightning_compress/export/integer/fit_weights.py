"""Weights and biases as the int8 and int32 numbers that kernels read.

    bias_int = rint(bias / (s_x s_w)),      s_w >= |bias| / (2^30 s_x), so that int32 holds it

Kernels take positive scales alone, and levels from -127 to 127: a negative scale, as a batch norm with a negative
factor leaves, changes sign together with its levels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lightning_compress.export.integer.graph import Weighted

LARGEST = 127
BIAS_LIMIT = 2.0**30
SMALLEST_SCALE = 1e-30


def integer_weights(core: Weighted, input_scale: float) -> tuple[Weighted, list[str]]:
    """Return a weighted operation with int8 levels and an int32 bias, and what was changed to fit as sentences.

    Args:
        core: with integer levels of any sign of scale, and a bias in float64.
        input_scale: of the tensor that it reads.
    """
    notes = []
    sign = np.where(core.scales < 0, -1, 1)
    levels = core.weight * _columns(sign, core.weight)
    scale = np.abs(core.scales)
    least = np.maximum(np.abs(core.bias) / (BIAS_LIMIT * input_scale), SMALLEST_SCALE)
    small = scale < least
    if small.any():
        share = np.where(small, scale / least, 1.0)
        levels = np.rint(levels * _columns(share, levels))
        notes.append(
            f"{core.module}: {int(small.sum())} channels with tiny weights have a larger scale, so that their bias fits"
        )
    over = int((np.abs(levels) > LARGEST).sum())
    if over:
        notes.append(f"{core.module}: {over} weights of level -128 became -127")
    scale = np.where(small, least, scale).astype(np.float32)
    levels = np.clip(levels, -LARGEST, LARGEST).astype(np.int8)
    unit = (np.float32(input_scale) * scale).astype(np.float64)
    bias = np.clip(np.rint(core.bias / unit), -(2**31), 2**31 - 1).astype(np.int32)
    return replace(core, weight=levels, scale=scale, bias=bias), notes


def _columns(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return values.reshape(-1, *[1] * (weight.ndim - 1))
