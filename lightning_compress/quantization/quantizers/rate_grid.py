"""The grid of a weight whose codes are chosen by what they take in the file: one step, and as many levels as come out.

``RateQuantization`` drives it. All that its training needs is here, so that checkpoints hold it and a training resumes
exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from lightning_compress.quantization.code_rates import CodeRates
from lightning_compress.quantization.coders.range_coded import RangeCoded
from lightning_compress.quantization.quantizers.fake_quantize import SMALLEST_SCALE
from lightning_compress.quantization.quantizers.weight import WeightQuantizer

MOST_BITS = 8
WITHIN = 0.499  # of a step: that far from its code a weight is still rounded to it


@final
class RateGrid(WeightQuantizer):
    """Levels ``code * scale`` for codes around 0; of 8 bits until the codes are final.

    Args:
        shape: of the scale.
        weight_shape: of the weight.

    Attributes:
        scale: fp32, positive; it is not trained.
        coded: int8, the codes that the lengths of codes follow from.
        slope: squared steps that one bit more is worth in a training whose codes take too much; else 0. Infinite where
            all codes stay as they are.
        rates: of ``coded``; None where the slope is 0 or infinite.
    """

    kind: ClassVar[str] = "rate_grid"
    learned: ClassVar[bool] = False

    scale: Tensor
    coded: Tensor
    slope: Tensor

    def __init__(self, shape: Sequence[int], weight_shape: Sequence[int]) -> None:
        super().__init__(MOST_BITS, shape)
        self.register_buffer("scale", torch.ones(self.shape))
        self.register_buffer("coded", torch.zeros(tuple(weight_shape), dtype=torch.int8))
        self.register_buffer("slope", torch.tensor(0.0))
        self.rates: CodeRates | None = None
        self.set_range(-(2 ** (MOST_BITS - 1)), MOST_BITS)

    @override
    def config(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "weight_shape": list(self.coded.shape)}

    def initialize(self, x: Tensor) -> None:
        """Do nothing: scale and codes are found for all layers together."""

    @override
    def scale_for(self, x: Tensor) -> Tensor:
        return self.scale.clamp_min(SMALLEST_SCALE)

    @override
    def precondition(self, x: Tensor) -> Tensor:
        """Return the weight within the step of the code that it is held to; gradients pass as if it were ``x``."""
        if self.rates is None:  # a tensor, not a number, tells whether codes stay: so do those that a checkpoint brings
            return x + (torch.where(self.slope.isinf(), self.scale * self.coded, x) - x).detach()
        with torch.no_grad():
            levels = x.float() / self.scale
            codes = self.rates.held(levels, self.coded, self.slope)
            inside = (codes + (levels - codes).clamp(-WITHIN, WITHIN)) * self.scale
        return x + (inside - x).detach()

    def hold(self, slope: float, coder: RangeCoded) -> None:
        """Let one bit more than :attr:`coded` takes be worth that many squared steps from now on.

        Args:
            slope: 0 lets weights go, and ``inf`` lets no code change.
            coder: of the file.
        """
        self.slope.fill_(slope)
        self.rates = CodeRates.of(self.coded, coder) if 0 < slope < inf else None

    def set_range(self, low: int, bits: int) -> None:
        """Let codes be ``low`` to ``low + 2 ** bits - 1``."""
        self.bits.fill_(bits)
        self.low.fill_(low)
        self.high.fill_(low + 2**bits - 1)
        self.shift.zero_()
