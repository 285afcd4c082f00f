"""Rounding to a grid in the forward pass, and the straight-through gradient in the backward pass.

    v = clip(round(x / s - z), low, high) + z,      q(x) = v s

    dq/dx = 1 inside the grid, 0 outside;     dq/ds = v - [inside] x / s        (LSQ, arXiv 1902.08153, eq. 3)

``z`` is 0, or 1/2 for one bit, whose two levels are then -s/2 and s/2. Both gradients come from ``x`` and ``q`` alone,
so that nothing else of the size of ``x`` is kept or computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


class FakeQuantize(torch.autograd.Function):
    """``apply(x, scale, low, high, offset, gain)``: ``x`` rounded to the grid, same shape, fp32.

    ``scale`` broadcasts against ``x``; ``low``, ``high`` are 0-dim tensors, so that other bits do not recompile;
    ``offset`` is a 0-dim tensor or None for 0; ``gain`` scales the gradient of ``scale`` (LSQ, section 2.2).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, low: Tensor, high: Tensor, offset: Tensor | None, gain: Tensor | float
    ) -> Tensor:
        x = x.float()
        ctx.gain, ctx.ends = gain, None
        if offset is None and _few_numbers(x, scale):
            step, ends = scale.item(), (low.item(), high.item())
            quantized = (x * (1 / step)).clamp_(*ends).round_().mul_(step)
            ctx.ends = _just_outside(ends[0] * step, -np.inf), _just_outside(ends[1] * step, np.inf)
            ctx.save_for_backward(x, quantized, scale, low, high)
            return quantized
        grid = x * scale.reciprocal()
        if offset is not None:
            grid = grid.sub_(offset)
        quantized = grid.clamp_(low, high).round_()
        if offset is not None:
            quantized = quantized.add_(offset)
            low, high = low + offset, high + offset
        quantized = quantized.mul_(scale)
        ctx.save_for_backward(x, quantized, scale, low, high)
        return quantized

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, quantized, scale, low, high = ctx.saved_tensors
        if ctx.ends is None:
            grad_x = grad.masked_fill((x < low * scale) | (x > high * scale), 0)
        else:
            grad_x = torch.ops.aten.hardtanh_backward(grad, x, *ctx.ends)
        grad_scale = None
        if ctx.needs_input_grad[1]:
            grad_scale = (_sum_like(scale, grad, quantized) - _sum_like(scale, grad_x, x)) * (ctx.gain / scale)
        return grad_x, grad_scale, None, None, None, None


def _few_numbers(x: Tensor, scale: Tensor) -> bool:
    """Whether to use plain numbers for one scale in all: on the CPU torch is three to ten times faster with them.

    On an accelerator they would wait for it, and in a compiled step each new width would compile again.
    """
    return scale.dim() == 0 and x.device.type == "cpu" and not torch.compiler.is_compiling()


def _just_outside(end: float, towards: float) -> float:
    """The fp32 number next to an end of the grid: the kernel's bounds are exclusive, the grid's ends are inside."""
    return float(np.nextafter(np.float32(end), np.float32(towards)))


def _sum_like(scale: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The sum of ``a * b`` over all that shares one scale."""
    if scale.dim() == 0:
        return torch.dot(a.flatten(), b.flatten())
    return (a * b).sum_to_size(scale.shape)


def least_squares_scale(x: Tensor, start: Tensor, low: Tensor, high: Tensor, offset: Tensor, steps: int = 10) -> Tensor:
    """The scale that minimizes ``|q(x) - x|^2``, by alternating codes and ``s = <x, v> / <v, v>``.

    Each step lowers the error; the result is a local optimum near ``start``, and has its shape.
    """
    scale = start
    for _ in range(steps):
        levels = (x / scale - offset).clamp_(low, high).round_().add_(offset)
        power = levels.square().sum_to_size(scale.shape)
        scale = torch.where(power > 0, (x * levels).sum_to_size(scale.shape) / power.clamp_min(1e-12), scale)
        scale = scale.clamp_min(SMALLEST_SCALE)
    return scale


SMALLEST_SCALE = 1e-8  # of a layer of zeros; keeps the division finite
