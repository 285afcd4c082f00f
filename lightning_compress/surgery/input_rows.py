"""The rows that a layer multiplies with its weight, at random places of its input, and what is summed over them."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_compress.surgery import measure
from lightning_compress.surgery._torch import padding_of
from lightning_compress.surgery.row_layout import weight_rows

DOUBLE = 2400  # features up to which sums are in float64
WIDEST = 4608  # features up to which least squares are worth their memory: 512 channels of 3x3
ROWS_PER_FEATURE = 3  # least squares on fewer rows fits what is not there
CONVOLUTIONS = (*measure.CONV, nn.ConvTranspose2d)


def places(layer: nn.Module, positions: int, samples: int) -> int:
    """Return how many positions of each sample to use for a layer that is refitted.

    Args:
        layer: as for :func:`sampled_rows`.
        positions: at least so many.
        samples: of all batches.
    """
    features = weight_rows(layer)[0].numel()
    return max(positions, ceil(ROWS_PER_FEATURE * features / samples)) if features <= WIDEST else positions


def added(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """Add ``left' right`` in place; in float64 up to ``DOUBLE`` features, else in float32.

    Args:
        total: None at first.
        left: shape ``(rows, features)``.
        right: shape ``(rows, any)``.
    """
    dtype = torch.float64 if left.shape[1] <= DOUBLE else torch.float32
    left, right = left.to(dtype), right.to(dtype)
    return left.T @ right if total is None else total.addmm_(left.T, right)


def added_moments(sums: Sequence[Tensor | None], rows: Tensor) -> list[Tensor]:
    """Add ``x x'`` of the rows of each group in place.

    Args:
        sums: one for each group, None at first.
        rows: of :func:`sampled_rows`.
    """
    return [added(total, part, part) for total, part in zip(sums, rows.chunk(len(sums), 1), strict=True)]


def sampled_rows(layer: nn.Module, x: Tensor, positions: int, generator: torch.Generator | None) -> Tensor:
    """Return the rows a layer multiplies with its weight, at up to ``positions`` random positions per sample.

    Of a transposed convolution those that make an output value, as the weight of :func:`weight_rows` reads them.

    Args:
        layer: a Conv1d to Conv3d, a ConvTranspose2d or a Linear.
        x: its input.
        positions: places for each sample.
        generator: of the places; the same state gives the same places for inputs of the same size.

    Returns:
        Shape ``(samples x places, features)``, those of the groups of a convolution one after another.
    """
    if isinstance(layer, nn.Linear):
        rows = x.flatten(1, -2) if x.dim() > 2 else x[:, None]
        chosen = _chosen(len(rows), rows.shape[1], positions, generator).to(rows.device)
        return rows.gather(1, chosen[..., None].expand(-1, -1, rows.shape[2])).flatten(0, 1)
    transposed = isinstance(layer, nn.ConvTranspose2d)
    windows = (
        _windows(layer, _spread(layer, x), (1, 1)) if transposed else _windows(layer, _padded(layer, x), layer.stride)
    )
    shape = windows.shape[1 : x.dim() - 1]
    chosen = _chosen(len(x), shape.numel(), positions, generator).to(x.device)
    samples = torch.arange(len(x), device=x.device)[:, None]
    picked = windows[samples, *torch.unravel_index(chosen, shape)]
    return (picked.flip(-2, -1) if transposed else picked).flatten(2).flatten(0, 1)


def _chosen(samples: int, places: int, positions: int, generator: torch.Generator | None) -> Tensor:
    """Return up to ``positions`` random places of each sample, shape ``(samples, positions)``."""
    return torch.rand(samples, places, generator=generator).argsort(1)[:, :positions]


def _padded(layer: Any, x: Tensor) -> Tensor:
    return F.pad(x, padding_of(layer), mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)


def _spread(layer: Any, x: Tensor) -> Tensor:
    """Return what a convolution of stride 1 by the mirrored kernel makes of the same: zeros between the inputs."""
    sizes = ((size - 1) * step + 1 for size, step in zip(x.shape[2:], layer.stride, strict=True))
    spread = x.new_zeros(*x.shape[:2], *sizes)
    spread[..., :: layer.stride[0], :: layer.stride[1]] = x
    before = [d * (k - 1) - p for d, k, p in zip(layer.dilation, layer.kernel_size, layer.padding, strict=True)]
    behind = [b + more for b, more in zip(before, layer.output_padding, strict=True)]
    return F.pad(spread, (before[1], behind[1], before[0], behind[0]))


def _windows(layer: Any, x: Tensor, stride: Sequence[int]) -> Tensor:
    """Return what each output reads of a padded input, a view: shape ``(samples, places..., channels, kernel...)``."""
    for i, (size, step, dilation) in enumerate(zip(layer.kernel_size, stride, layer.dilation, strict=True)):
        x = x.unfold(2 + i, dilation * (size - 1) + 1, step)[..., ::dilation]
    return x.movedim(1, 1 + len(layer.kernel_size))


def groups_of(layer: nn.Module) -> int:
    """Return how many groups a layer has; 1 of what is no convolution."""
    return layer.groups if isinstance(layer, CONVOLUTIONS) else 1
