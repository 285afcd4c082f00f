"""What the quantizers of activations share: one scale per tensor, set from the first batch that passes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_compress.quantization.quantizers.quantizer import Quantizer

SAMPLE = 1 << 14  # enough activations to set a scale by


class ActivationQuantizer(Quantizer):
    """A quantizer of a layer's input, 2 to 8 bits, signed or unsigned as the first batch shows."""

    bit_range: ClassVar[tuple[int, int]] = (2, 8)

    calibrated: Tensor

    def __init__(self, bits: int, shape: Sequence[int] = ()) -> None:
        super().__init__(bits, shape)
        self.register_buffer("calibrated", torch.tensor(False))
        self.set_sign(torch.tensor(False))
        self.await_batch()

    @final
    def await_batch(self) -> None:
        """Let the next batch set the scale, if no checkpoint does."""
        # A hook that takes itself off, rather than a branch in forward: a compiled step has neither.
        self._forward_pre_hooks.clear()
        self.register_forward_pre_hook(self._calibrate)

    @final
    def set_sign(self, signed: Tensor) -> None:
        """Use the grid around zero when ``signed``, else the one that starts at zero."""
        levels = 2.0 ** int(self.bits)
        self.low.copy_(torch.where(signed, -levels / 2, 0.0))
        self.high.copy_(torch.where(signed, levels / 2 - 1, levels - 1))

    @final
    def after_forward(self, _layer: torch.nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        # A tensor of its own: what comes next may work in place, and autograd keeps the quantized one.
        return self(output).clone()

    @property
    @abstractmethod
    def number(self) -> Tensor:
        """The one number that sets the grid, 0-dim."""

    @final
    def packed(self) -> Tensor:
        """All that a packed file needs beside :meth:`config`, shape ``(2,)``: the number, and 1 for a signed grid."""
        return torch.stack([self.number.detach().float().reshape(()), (self.low < 0).float()])

    @final
    @torch.no_grad()
    def unpack(self, values: Tensor) -> None:
        """The inverse of :meth:`packed`."""
        self.set_sign(values[1] > 0)
        self.number.copy_(values[0])
        self.calibrated.fill_(True)
        self._forward_pre_hooks.clear()

    @final
    def _calibrate(self, _module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        self._forward_pre_hooks.clear()
        if self.calibrated:  # by a checkpoint
            return
        with torch.no_grad():
            values = args[0].detach().float().flatten()
            least = values.amin() if values.numel() else values.new_zeros(())
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(least, dist.ReduceOp.MIN)
            self.set_sign(least < 0)
            self.initialize(values[:: max(1, values.numel() // SAMPLE)])
            if dist.is_available() and dist.is_initialized():
                for state in (*self.parameters(), *self.buffers()):
                    dist.broadcast(state, src=0)
            self.calibrated.fill_(True)
