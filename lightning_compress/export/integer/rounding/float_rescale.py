"""From sums to levels by one multiplication and one rounding to even in float32."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lightning_compress.export.integer.graph import Grid


def float_rescale(sums: Tensor, unit: Grid, weight_scale: np.ndarray, out: Grid) -> Tensor:
    """Return ``rint(float32(sum) * (s_x s_w / s_y))``; arguments as those of :meth:`Rounding.rescale`."""
    factor = np.float32(unit.scale) * weight_scale.astype(np.float32) / np.float32(out.scale)
    factors = torch.from_numpy(factor.reshape(1, -1, *[1] * (sums.dim() - 2)))
    return (sums.float() * factors).round().long()
