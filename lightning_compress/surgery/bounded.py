"""Keep learned numbers within bounds without losing their gradient.

A plain clamp has no gradient outside its bounds: a step that leaves them is final.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def reflected(x: Tensor, low: float, high: float | Tensor) -> Tensor:
    """Fold a parameter into ``[low, high]`` by reflection at the ends.

    The result is within the bounds after a step of any size, and its slope is 1 or -1 everywhere: the next step moves
    it as if it had never been outside.
    """
    width = high - low
    place = torch.remainder(x - low, 2 * width)
    return torch.where(place <= width, low + place, low + 2 * width - place)


class _Held(torch.autograd.Function):
    """See :func:`held`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        low, high = ctx.bounds
        outward = ((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0))
        return gradient.masked_fill(outward, 0), None, None


def held(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp a computed number; outside the bounds only a gradient passes whose descent leads back inside."""
    return _Held.apply(x, low, high)
