"""Base class of activation quantizers: one scale per tensor, set by the first calls that say something."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from lightning_compress.quantization.quantizers.uniform import UniformQuantizer
from lightning_compress.quantization.value_histogram import ValueHistogram
from lightning_compress.surgery._torch import forward_pre_hooks
from lightning_compress.surgery.transforms import drop_hooks

CALLS = 8  # that calibrate, where nobody says when the calibration ends
FAR = 4.0  # times the end of the grid, from which on an input may contradict it
WIDER = 2.0  # times the grid, which a better one must be to take its place


class ActivationQuantizer(UniformQuantizer):
    """A quantizer of a tensor between layers, 2 to 8 bits, signed or unsigned as the calibration shows.

    It calibrates itself in its first :data:`CALLS` calls, or until :meth:`settle`: the grid has the least error on all
    tensors so far, of one pass or of several, and of each call of a layer that is called more than once. Tensors that
    are all zero, or have no rows, say nothing and do not count. Later calls, until :meth:`settle`, only widen the grid,
    where a tensor contradicts it: by negative values on a grid from zero, or by values far beyond its end.

    Attributes:
        calibrated: whether the grid was set. A buffer, so checkpoints know it.
        widened: how many calls have contradicted the grid.
        only_zeros: whether it was called, and always with zeros: a layer behind channels that have died.
    """

    bit_range: ClassVar[tuple[int, int]] = (2, 8)

    calibrated: Tensor

    def __init__(self, bits: int, shape: Sequence[int] = ()) -> None:
        super().__init__(bits, shape)
        self.register_buffer("calibrated", torch.tensor(False))
        self.set_sign(torch.tensor(False))
        self.widened = 0
        self.only_zeros = False
        self._own_grid = False  # rather than that of a checkpoint
        self.await_calls()

    @final
    def await_calls(self, calls: float = CALLS) -> None:
        """Let the next calls set the grid, if no checkpoint did; if one did, they may widen it.

        Args:
            calls: how many set it.
        """
        self._seen: ValueHistogram | None = None
        self._calls_left = calls
        self.look()

    @final
    def look(self) -> None:
        """Let the next calls widen the grid, until :meth:`settle`."""
        # A hook that takes itself off, rather than a branch in forward: a compiled step has neither.
        drop_hooks(forward_pre_hooks(self), [self])
        self.register_forward_pre_hook(self._observe)

    @final
    def settle(self, at_once: bool = True) -> None:
        """Leave the grid as it is until :meth:`look`; one that no call has set still waits.

        Args:
            at_once: also where more calls were to set it.
        """
        if self.calibrated and (at_once or self._seen is None):
            self._seen = None
            drop_hooks(forward_pre_hooks(self), [self])

    @property
    def has_grid(self) -> bool:
        """Whether it can be stored: its grid was set, or only zeros came, which any grid holds."""
        return bool(self.calibrated) or self.only_zeros

    @final
    def set_sign(self, signed: Tensor) -> None:
        """Use the grid around zero when ``signed``, else the one that starts at zero."""
        levels = 2.0 ** int(self.bits)
        self.low.copy_(torch.where(signed, -levels / 2, 0.0))
        self.high.copy_(torch.where(signed, levels / 2 - 1, levels - 1))

    @final
    @override
    def after_forward(self, _layer: torch.nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        # A tensor of its own: what comes next may work in place, and autograd keeps the quantized one.
        return self(output).clone()

    @abstractmethod
    def initialize(self, x: Tensor, counts: Tensor | None = None) -> None:
        """Set the grid for values whose sign it has.

        Args:
            x: at least one of them not zero, shape ``(n,)``.
            counts: how often each occurs, or their shares, shape ``(n,)``; None for once.
        """

    @property
    @abstractmethod
    def number(self) -> Tensor:
        """The one number that sets the grid, 0-dim, proportional to its scale."""

    @abstractmethod
    def set_number(self, number: Tensor) -> None:
        """Set :attr:`number`."""

    @final
    def packed(self) -> Tensor:
        """Return what a packed file needs beside :meth:`config`, shape ``(2,)``: the number, 1 if signed."""
        return torch.stack([self.number.detach().float().reshape(()), (self.low < 0).float()])

    @final
    @torch.no_grad()
    def unpack(self, values: Tensor) -> None:
        """Return the inverse of :meth:`packed`."""
        self.set_sign(values[1] > 0)
        self.set_number(values[0])
        self.calibrated.fill_(True)
        self.settle()

    @final
    @torch.no_grad()
    def _observe(self, _module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if torch.compiler.is_compiling() and (self._seen is not None or self._calls_left < 1):
            return  # calibrated, by calls outside of the graph
        if not self.calibrated or self._seen is not None:
            self._calibrate(args[0])
        elif self.training or (self._own_grid and not (dist.is_available() and dist.is_initialized())):
            # A grid from a checkpoint is that of the trained network, which evaluation must not change. Validation may
            # call it more often on one process than on another, and then nothing can be reduced.
            self._widen(args[0])

    def _calibrate(self, x: Tensor) -> None:
        found = ValueHistogram(x).reduce()
        if found.says_nothing:
            self.only_zeros |= not self.calibrated and bool(x.numel())
            return
        self.only_zeros = False
        self._seen = found if self._seen is None else self._seen.merge(found)
        self.set_sign(self._seen.least < 0)
        self.initialize(*self._seen.points())
        self.calibrated.fill_(True)
        self._own_grid = True
        self._calls_left -= 1
        if self._calls_left < 1:
            self._seen = None

    def _widen(self, x: Tensor) -> None:
        least, largest = x.detach().float().aminmax() if x.numel() else (x.new_zeros(()), x.new_zeros(()))
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(least, dist.ReduceOp.MIN)
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        step = self.scale_for(x)
        end, before = self.high * step, self.packed()
        below = bool((self.low == 0) & (least < -step / 2))
        if not below and not bool(torch.maximum(-least, largest) > FAR * end):
            return
        found = ValueHistogram(x).reduce()
        self.set_sign((self.low < 0) | below)
        self.initialize(*found.points())
        wider = self.high * self.scale_for(x) / end
        if below or wider > WIDER:
            self.set_number(self.number / wider.clamp(max=1))
            self.widened += 1
        else:
            self.set_number(before[0])
