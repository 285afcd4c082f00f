"""The grid of a packed file: scale and levels are given, nothing is learned.

``load`` attaches it, so that a loaded network can be saved again with the same codes, and further training keeps the
weights on the stored grid. A scale may be negative, where a batch norm with negative weight was folded into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor
from typing_extensions import override

from lightning_compress.quantization.quantizers.fake_quantize import SMALLEST_SCALE
from lightning_compress.quantization.quantizers.weight import WeightQuantizer, usual_zero
from lightning_compress.quantization.quantizers.weight_format import StoredWeight


@final
class FixedGrid(WeightQuantizer):
    """Levels ``(code + zero) * scale`` for codes below ``2 ** bits``.

    Args:
        bits, shape: see :class:`Quantizer`.
        zero: the level of code 0, in steps of the scale; None for the usual one.
    """

    kind: ClassVar[str] = "fixed_grid"
    learned: ClassVar[bool] = False

    def __init__(self, bits: int, shape: Sequence[int] = (), zero: float | None = None) -> None:
        super().__init__(bits, shape)
        zero = usual_zero(bits) if zero is None else zero
        self.shift.fill_(zero % 1)  # the levels of one bit, and DoReFa's, lie between the multiples of the scale
        self.low.fill_(zero - float(self.shift))
        self.high.fill_(float(self.low) + 2**bits - 1)
        self.register_buffer("scale", torch.ones(self.shape))

    @override
    def config(self) -> dict[str, Any]:
        return {**super().config(), "zero": float(self.zero)}

    @classmethod
    @override
    def from_stored(cls, stored: StoredWeight, zero: float | None = None) -> Self:
        found = cls(stored.bits, stored.scale.shape, zero)
        found.scale.copy_(stored.scale)
        return found

    def initialize(self, x: Tensor) -> None:
        """Do nothing: the grid is given."""

    @override
    def scale_for(self, x: Tensor) -> Tensor:
        # A norm with weight zero makes a scale of zero, and a tiny one has no finite reciprocal.
        return torch.where(self.scale.abs() < SMALLEST_SCALE, SMALLEST_SCALE, self.scale)
