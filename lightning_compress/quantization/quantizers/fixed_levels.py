"""The levels of a packed file whose number format is no uniform grid: table and scale are given, nothing is learned.

``load`` attaches it in the place of any format whose class it need not know, so that a loaded network can be saved
again with the same levels, and further training keeps the weights on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self, final

import torch
from torch import Tensor
from typing_extensions import override

from lightning_compress.quantization.quantizers.codebook import nearest
from lightning_compress.quantization.quantizers.fake_quantize import SMALLEST_SCALE
from lightning_compress.quantization.quantizers.weight_format import StoredWeight, WeightFormat


@final
class FixedLevels(WeightFormat):
    """``levels[code] * scale``. Arguments as for :class:`Quantizer`."""

    kind: ClassVar[str] = "fixed_levels"
    learned: ClassVar[bool] = False

    levels: Tensor
    scale: Tensor

    def __init__(self, bits: int, shape: Sequence[int] = ()) -> None:
        super().__init__(bits, shape)
        self.bits = bits
        self.register_buffer("levels", torch.zeros(2**bits))
        self.register_buffer("scale", torch.ones(self.shape))

    @classmethod
    @override
    def from_stored(cls, stored: StoredWeight) -> Self:
        found = cls(stored.bits, stored.scale.shape)
        found.levels.copy_(stored.table)
        found.scale.copy_(stored.scale)
        return found

    def initialize(self, x: Tensor) -> None:
        """Do nothing: the levels are given."""

    @torch.no_grad()
    @override
    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        # A norm with weight zero makes a scale of zero, and a tiny one has no finite reciprocal.
        scale = torch.where(self.scale.abs() < SMALLEST_SCALE, SMALLEST_SCALE, self.scale)
        ordered, positions = self.levels.sort()
        return positions[nearest(weight.float() / scale, ordered)].to(torch.uint8), scale

    @override
    def decode(self, codes: Tensor, scale: Tensor) -> Tensor:
        return self.levels[codes.long()] * scale
