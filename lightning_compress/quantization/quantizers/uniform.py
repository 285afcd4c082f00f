"""Quantizers whose levels are a uniform grid: what integer hardware computes with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from lightning_compress.quantization.quantizers.fake_quantize import FakeQuantize
from lightning_compress.quantization.quantizers.quantizer import Quantizer


class UniformQuantizer(Quantizer):
    """Round a tensor to a uniform grid of ``2 ** bits`` levels or fewer. Arguments as for :class:`Quantizer`."""

    bits: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, bits: int, shape: Sequence[int] = ()) -> None:
        super().__init__(bits, shape)
        # Buffers, not Python numbers: a compiled step then serves all bit widths, and checkpoints hold them.
        self.register_buffer("bits", torch.tensor(int(bits)))
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(0.0))

    @abstractmethod
    def scale_for(self, x: Tensor) -> Tensor:
        """Return the distance between neighboring levels for a preconditioned tensor, :attr:`shape`, positive."""

    @property
    def offset(self) -> Tensor | None:
        """Offset that is added to codes before they are scaled; None for 0."""
        return None

    @property
    def log_scale(self) -> Tensor | None:
        """The logarithm of a learned scale but for a constant, shape :attr:`shape`; None where none is learned."""
        return None

    def gain(self, x: Tensor) -> Tensor | float:
        """Return the factor on the gradient of :attr:`log_scale`."""
        return 1.0

    def precondition(self, x: Tensor) -> Tensor:
        """Return what is rounded in place of ``x``, same shape: ``x``, unless a method squashes or clips it."""
        return x

    @final
    def on_grid(self, x: Tensor) -> Tensor:
        """Round what is preconditioned already; levels are where this changes nothing."""
        scale = self.scale_for(x).detach()
        return FakeQuantize.apply(x, scale, self.low, self.high, self.offset, self.log_scale, self.gain(x))

    @final  # type: ignore[misc]  # torch declares forward as an attribute
    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` on the grid: same shape, fp32 also in mixed precision, where half would move codes.

        In a network that is of half precision itself (``bf16-true``) the result is as well.
        """
        mixed = torch.is_autocast_enabled(x.device.type)
        with torch.autocast(x.device.type, enabled=False):
            found = self.on_grid(self.precondition(x))
        return found if mixed else found.to(x.dtype)
