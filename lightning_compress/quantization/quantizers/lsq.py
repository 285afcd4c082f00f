"""LSQ: the scale of the grid is a parameter, trained with the weights.

    levels -2^(b-1) s ... (2^(b-1) - 1) s;      gradient of s scaled by 1 / sqrt(N (2^(b-1) - 1))

Source: Esser et al. 2020, Learned Step Size Quantization (arXiv 1902.08153, eqs. 1-3 and section 2.2). Two changes: the
scale starts at the least-squares optimum for the trained weight rather than at ``2 mean |w| / sqrt(high)``, so that a
candidate can be scored before any training; and there may be one scale per output channel. One bit is +-s/2. Use it
at any width; it needs some training to pay off. It breaks with large weight decay on the scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from lightning_compress.quantization.quantizers.fake_quantize import SMALLEST_SCALE, least_squares_scale
from lightning_compress.quantization.quantizers.weight import WeightQuantizer


@final
class LSQ(WeightQuantizer):
    """Learned-step-size quantization of weights. Arguments as for :class:`Quantizer`."""

    kind: ClassVar[str] = "lsq"
    learned: ClassVar[bool] = True

    def __init__(self, bits: int, shape: Sequence[int] = ()) -> None:
        super().__init__(bits, shape)
        self.low.fill_(-(2.0 ** (bits - 1)))
        self.high.fill_(2.0 ** (bits - 1) - 1)
        self.scale = nn.Parameter(torch.ones(self.shape))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        x = x.float()
        dims = [d for d in range(x.dim()) if not self.shape or self.shape[d] == 1]
        mean = x.abs().mean(dims, keepdim=bool(self.shape)) if x.numel() else x.new_zeros(self.shape)
        start = (2 * mean / self.high.clamp_min(1).sqrt()).clamp_min(SMALLEST_SCALE)
        self.scale.copy_(least_squares_scale(x, start, self.low, self.high, self.shift))

    def scale_for(self, x: Tensor) -> Tensor:
        return self.scale.float().clamp_min(SMALLEST_SCALE)

    def gain(self, x: Tensor) -> Tensor:
        per_scale = max(x.numel() // max(self.scale.numel(), 1), 1)
        return torch.rsqrt(self.high.clamp_min(1) * per_scale)
