"""The grid of a weight whose codes are chosen by what they take in the file: one step, and as many levels as come out.

``RateQuantization`` drives it. All that its training needs is here, so that checkpoints hold it and a training resumes
exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from lightning_compress.quantization.quantizers.fake_quantize import SMALLEST_SCALE
from lightning_compress.quantization.quantizers.weight import WeightQuantizer

MOST_BITS = 8


@final
class RateGrid(WeightQuantizer):
    """Levels ``code * scale`` for codes around 0; of 8 bits until the codes are final.

    Args:
        shape: of the scale.
        weight_shape: of the weight.

    Attributes:
        scale: fp32, positive; it is not trained.
        coded: int8, the codes that the lengths of codes follow from.
        price: of a bit, in the unit of the loss; 0 before the first step of a training.
    """

    kind: ClassVar[str] = "rate_grid"
    learned: ClassVar[bool] = False

    scale: Tensor
    coded: Tensor
    price: Tensor

    def __init__(self, shape: Sequence[int], weight_shape: Sequence[int]) -> None:
        super().__init__(MOST_BITS, shape)
        self.register_buffer("scale", torch.ones(self.shape))
        self.register_buffer("coded", torch.zeros(tuple(weight_shape), dtype=torch.int8))
        self.register_buffer("price", torch.tensor(0.0))
        self.set_range(-(2 ** (MOST_BITS - 1)), MOST_BITS)

    @override
    def config(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "weight_shape": list(self.coded.shape)}

    def initialize(self, x: Tensor) -> None:
        """Do nothing: scale and codes are found for all layers together."""

    @override
    def scale_for(self, x: Tensor) -> Tensor:
        return self.scale.clamp_min(SMALLEST_SCALE)

    def set_range(self, low: int, bits: int) -> None:
        """Let codes be ``low`` to ``low + 2 ** bits - 1``."""
        self.bits.fill_(bits)
        self.low.fill_(low)
        self.high.fill_(low + 2**bits - 1)
        self.shift.zero_()
