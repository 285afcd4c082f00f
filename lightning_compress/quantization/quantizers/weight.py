"""Uniform grids for weights: around zero, with codes that can be packed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from lightning_compress.quantization.quantizers.uniform import UniformQuantizer
from lightning_compress.quantization.quantizers.weight_format import WeightFormat


class WeightQuantizer(UniformQuantizer, WeightFormat):
    """A quantizer of weights, 1 to 8 bits; one bit means the two levels ``-scale / 2`` and ``scale / 2``.

    Attributes:
        shift: the part of a step by which the levels miss the multiples of the scale: 0, or 1/2 for levels that lie
            around zero in pairs.
    """

    bit_range: ClassVar[tuple[int, int]] = (1, 8)

    shift: Tensor

    def __init__(self, bits: int, shape: Sequence[int] = ()) -> None:
        super().__init__(bits, shape)
        self.register_buffer("shift", torch.tensor(0.5 if bits == 1 else 0.0))

    @property
    @override
    def offset(self) -> Tensor:
        return self.shift

    @staticmethod
    def stored(bits: int, channels: int) -> dict[str, int]:
        """See :meth:`WeightFormat.stored`: a grid needs its scales alone."""
        return {"weight_bits": bits, "weight_scales": channels}

    @final
    def use_narrow_range(self) -> None:
        """Leave out the lowest level, so that there are as many below zero as above: what integer kernels expect.

        Grids whose levels lie around zero in pairs stay as they are.
        """
        self.low.copy_(torch.where(self.shift == 0, -self.high, self.low))

    @property
    @final
    def zero(self) -> Tensor:
        """The level, in steps of the scale, that code 0 stands for."""
        return self.low + self.shift

    @property
    @final
    def table(self) -> Tensor:
        """Nothing: the levels follow from :meth:`reader`."""
        return torch.empty(0)

    @final
    def reader(self) -> dict[str, Any]:
        """Return the spec of a ``FixedGrid``, whose ``zero`` is left out where it is the usual one."""
        zero = float(self.zero)
        return {"kind": "fixed_grid", **({} if zero == usual_zero(int(self.bits)) else {"zero": zero})}

    @final
    @torch.no_grad()
    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes (uint8, shape of ``weight``, below ``2 ** bits``) and scale; they decode to ``q(weight)``."""
        weight = self.precondition(weight)
        scale = self.scale_for(weight)
        levels = (weight.float() * scale.reciprocal() - self.shift).clamp_(self.low, self.high).round_()
        return (levels - self.low).to(torch.uint8), scale

    @final
    def decode(self, codes: Tensor, scale: Tensor) -> Tensor:
        """Return the quantized weight, fp32."""
        # The same operations in the same order as in FakeQuantize, for the same bits of the result.
        return codes.float().add_(self.low).add_(self.shift).mul_(scale)


def usual_zero(bits: int) -> float:
    """Return the level of code 0 on the grid of two's complement, and of one bit: ``-1/2``."""
    return -0.5 if bits == 1 else -(2.0 ** (bits - 1))
