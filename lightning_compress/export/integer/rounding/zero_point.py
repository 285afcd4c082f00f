"""Stored numbers and their zero points, which move ties; integer means as TFLite's kernels compute them on those."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_compress.export.integer.graph import Grid


def zero_point(grid: Grid) -> int:
    """Return the int8 number that stands for level 0: -128 for grids that start at zero, else 0."""
    return -128 if grid.low == 0 else 0


def unsigned_zero_point(grid: Grid) -> int:
    """Return the uint8 number that stands for level 0: 0 for grids that start at zero, else 128."""
    return 0 if grid.low == 0 else 128


def half_away(sums: Tensor, count: int, grid: Grid) -> Tensor:
    """Return ``sums / count`` of levels, rounded half away from the stored number 0."""
    stored = sums + count * zero_point(grid)
    rounded = torch.where(stored > 0, stored + count // 2, stored - count // 2)
    return torch.div(rounded, count, rounding_mode="trunc") - zero_point(grid)
