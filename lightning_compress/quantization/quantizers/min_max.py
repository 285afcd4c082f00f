"""Min-max: a symmetric grid up to the largest weight, anew at each step.

    s = max |w| / (2^(b-1) - 1),      levels -(2^(b-1) - 1) s ... (2^(b-1) - 1) s
    one bit: s = 2 mean |w|,          levels -s/2, s/2

Source: Jacob et al. 2018 (arXiv 1712.05877, section 3), without a zero point; one bit as in BWN (arXiv 1603.05279,
section 3.1). Use it at 6 bits and more, where it needs no training. It breaks below 4 bits: the largest weight sets the
grid, and most weights round to zero; use LSQ there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from lightning_compress.quantization.quantizers.fake_quantize import SMALLEST_SCALE
from lightning_compress.quantization.quantizers.weight import WeightQuantizer


@final
class MinMax(WeightQuantizer):
    """Symmetric min-max quantization of weights. Arguments as for :class:`Quantizer`."""

    kind: ClassVar[str] = "min_max"
    learned: ClassVar[bool] = False

    def __init__(self, bits: int, shape: Sequence[int] = ()) -> None:
        super().__init__(bits, shape)
        high = 0.0 if bits == 1 else 2.0 ** (bits - 1) - 1
        self.high.fill_(high)
        self.low.fill_(-1.0 if bits == 1 else -high)

    def initialize(self, x: Tensor) -> None:
        """Do nothing: the scale is a function of the weight."""

    @override
    def scale_for(self, x: Tensor) -> Tensor:
        size = x.detach().float().abs()
        dims = [d for d in range(x.dim()) if not self.shape or self.shape[d] == 1]
        largest = size.amax(dims, keepdim=bool(self.shape)) if x.numel() else size.new_zeros(self.shape)
        mean = size.mean(dims, keepdim=bool(self.shape)) if x.numel() else largest
        scale = torch.where(self.shift > 0, 2 * mean, largest / self.high.clamp_min(1))
        return scale.clamp_min(SMALLEST_SCALE)
