"""Rounding to a grid in the forward pass, and the straight-through gradient in the backward pass.

    v = clip(round(x / s - z), low, high) + z,      q(x) = v s

    dq/dx = 1 inside the grid, 0 outside;     s dq/ds = q - [inside] x        (LSQ, arXiv 1902.08153, eq. 3, times s)

``z`` is 0, or 1/2 for one bit, whose two levels are then -s/2 and s/2. Both gradients come from ``x`` and ``q`` alone,
so that nothing else of the size of ``x`` is kept or computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override


class FakeQuantize(torch.autograd.Function):
    """``apply(x, scale, low, high, offset, log_scale, gain)``: ``x`` rounded to the grid, same shape, fp32.

    ``scale`` broadcasts against ``x`` and takes no gradient itself; ``low``, ``high`` are 0-dim tensors, so that other
    bits do not recompile; ``offset`` is a 0-dim tensor or None for 0. ``log_scale`` is what a learned scale is the
    exponential of, but for a factor, or None: it gets the gradient ``s dq/ds``, which has no unit, times ``gain``.
    """

    @staticmethod
    @override
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        low: Tensor,
        high: Tensor,
        offset: Tensor | None,
        log_scale: Tensor | None,
        gain: Tensor | float,
    ) -> Tensor:
        x = x.float()
        ctx.gain, ctx.ends = gain, None
        if offset is None and _few_numbers(x, scale):
            step, ends = scale.item(), (low.item(), high.item())
            quantized = (x * (1 / step)).clamp_(*ends).round_().mul_(step)
            ctx.ends = _just_outside(ends[0] * step, -np.inf), _just_outside(ends[1] * step, np.inf)
            ctx.save_for_backward(x, quantized, scale, low.clone(), high.clone())
            return quantized
        grid = x * scale.reciprocal()
        if offset is not None:
            grid = grid.sub_(offset)
        quantized = grid.clamp_(low, high).round_()
        if offset is not None:
            quantized = quantized.add_(offset)
            low, high = low + offset, high + offset
        quantized = quantized.mul_(scale)
        # The ends are buffers that a later call of a shared quantizer may set anew before the backward pass.
        ctx.save_for_backward(x, quantized, scale, low.clone(), high.clone())
        return quantized

    @staticmethod
    @override
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, quantized, scale, low, high = ctx.saved_tensors
        if ctx.ends is None:
            grad_x = grad.masked_fill((x < low * scale) | (x > high * scale), 0)
        else:
            grad_x = torch.ops.aten.hardtanh_backward(grad, x, *ctx.ends)
        grad_log_scale = None
        if ctx.needs_input_grad[5]:
            grad_log_scale = (_sum_like(scale, grad, quantized) - _sum_like(scale, grad_x, x)) * ctx.gain
        return grad_x, None, None, None, None, grad_log_scale, None


def _few_numbers(x: Tensor, scale: Tensor) -> bool:
    """Return whether to use plain numbers for a single scale, with which torch is faster on the CPU.

    On an accelerator they would wait for it, and in a compiled step each new width would compile again.
    """
    return scale.dim() == 0 and x.device.type == "cpu" and not torch.compiler.is_compiling()


def _just_outside(end: float, towards: float) -> float:
    """Return the fp32 number next to an end of the grid, as the kernel's bounds are exclusive."""
    return float(np.nextafter(np.float32(end), np.float32(towards)))


def _sum_like(scale: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of ``a * b`` over all that shares one scale."""
    if scale.dim() == 0:
        return torch.dot(a.flatten(), b.flatten())
    return (a * b).sum_to_size(scale.shape)


# The smallest number whose reciprocal is finite: the scale of a layer of zeros, which are zero on any grid.
SMALLEST_SCALE = torch.finfo(torch.float32).tiny
