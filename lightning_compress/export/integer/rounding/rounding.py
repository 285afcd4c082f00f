"""Base class of the rounding rules: from exact integer sums to levels."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_compress.export.integer.graph import Grid


class Rounding(ABC):
    """The arithmetic of one runtime. Levels and sums are int64 tensors; results are not clipped yet."""

    @abstractmethod
    def rescale(self, sums: Tensor, unit: Grid, weight_scale: np.ndarray, out: Grid) -> Tensor:
        """Return sums of products of levels on the output's grid.

        Args:
            sums: with the output channels in dimension 1.
            unit: grid of the input.
            weight_scale: float32, one per output channel, or one in all.
            out: grid of the output.
        """

    @abstractmethod
    def add(self, a: Tensor, a_grid: Grid, b: Tensor, b_grid: Grid, out: Grid) -> Tensor:
        """Return the sum of two tensors of levels."""

    @abstractmethod
    def average(self, sums: Tensor, count: int, grid: Grid) -> Tensor:
        """Return means from sums over ``count`` levels."""

    def average_pool(self, levels: Tensor, kernel: tuple[int, int], stride: tuple[int, int], grid: Grid) -> Tensor:
        """Return the means of windows; levels have shape ``(batch, channels, height, width)``."""
        sums = F.avg_pool2d(levels.double(), kernel, stride, divisor_override=1)
        return self.average(sums.round().long(), kernel[0] * kernel[1], grid)

    def multiply(self, a: Tensor, a_grid: Grid, b: Tensor, b_grid: Grid, out: Grid) -> Tensor:
        """Return the product of two tensors of levels."""
        return self.rescale(a * b, a_grid, np.array([b_grid.scale], np.float32), out)

    def sigmoid(self, levels: Tensor, grid: Grid, out: Grid) -> Tensor:
        """Return the logistic function of levels: by a table from float32 values."""
        y = 1 / (1 + torch.exp(-levels.float() * float(np.float32(grid.scale))))
        return (y / float(np.float32(out.scale))).round().long()

    def hard_swish(self, levels: Tensor, grid: Grid, out: Grid) -> Tensor:
        """Return ``x * relu6(x + 3) / 6`` of levels: by a table from float32 values."""
        y = F.hardswish(levels.float() * float(np.float32(grid.scale)))
        return (y / float(np.float32(out.scale))).round().long()

    def requantize(self, levels: Tensor, grid: Grid, out: Grid) -> Tensor:
        """Return levels on another grid."""
        return self.rescale(levels, grid, np.ones(1, np.float32), out)
