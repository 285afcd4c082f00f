"""LSQ: the scale of the grid is trained with the weights.

    levels -2^(b-1) s ... (2^(b-1) - 1) s,      s = max |w| r e^p,      p trained from 0

Source: Esser et al. 2020, Learned Step Size Quantization (arXiv 1902.08153, eqs. 1-3 and section 2.2), with the scale
as a learned share of the largest weight, as in OmniQuant's weight clipping (arXiv 2308.13137, section 3.2). Ours: ``r``
clips as little as a squared error near the least allows, so that a candidate can be scored before any training;
``e^p``, within 1/64 and 64, is positive after any step, and neither its step nor weight decay depends on the unit of
the weight; and there may be one scale per output channel. The gradient of p is that of LSQ for a filter of norm 1 whose
scale is ``1 / sqrt(N high)``, N weights a scale. A channel of zeros has no best scale: it starts at min-max, and the
scale follows the weight when that grows. One bit is +-s/2. Use it at any width; it needs some training to pay off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.quantization.quantizers.fake_quantize import SMALLEST_SCALE
from lightning_compress.quantization.quantizers.weight import WeightQuantizer
from lightning_compress.quantization.scale_search import best_scale
from lightning_compress.surgery.bounded import reflected

# Clipping shrinks what a layer computes, rounding does not: on a trained ResNet-20 without training, 4-bit weights of
# least error lose 4 points, these 1.7.
SLACK = 1.35  # times the least error, that the start may have in order to clip less
SPAN = 4.16  # of the logarithm of a learned scale to either side of its start: a factor of 64


@final
class LSQ(WeightQuantizer):
    """Learned-step-size quantization of weights. Arguments as for :class:`Quantizer`.

    Attributes:
        log_share: the parameter p, shape of the scale.
        start: r, the scale as a share of the largest weight where training begins.
        largest: max ``|w|`` of the weights behind each scale, as training last saw them.
    """

    kind: ClassVar[str] = "lsq"
    learned: ClassVar[bool] = True

    start: Tensor
    largest: Tensor

    def __init__(self, bits: int, shape: Sequence[int] = ()) -> None:
        super().__init__(bits, shape)
        self.low.fill_(-(2.0 ** (bits - 1)))
        self.high.fill_(2.0 ** (bits - 1) - 1)
        self.log_share = nn.Parameter(torch.zeros(self.shape))
        self.register_buffer("start", torch.ones(self.shape))
        self.register_buffer("largest", torch.zeros(self.shape))

    @torch.no_grad()
    @override
    def initialize(self, x: Tensor) -> None:
        rows = x.detach().float().flatten(1) if self.shape else x.detach().float().reshape(1, -1)
        found = best_scale(rows, float(self.low), float(self.high), float(self.shift), slack=SLACK).view(self.shape)
        self.largest.copy_(self._largest(x))
        minmax = 1 / self.high.clamp_min(1)
        self.start.copy_(torch.where(self.largest > 0, found / self.largest.clamp_min(SMALLEST_SCALE), minmax))
        self.log_share.zero_()

    @property
    @override
    def log_scale(self) -> Tensor:
        return reflected(self.log_share.float(), -SPAN, SPAN)

    @override
    def precondition(self, x: Tensor) -> Tensor:
        if self.training:
            self.largest.copy_(self._largest(x))
        return x

    @override
    def scale_for(self, x: Tensor) -> Tensor:
        return (self.largest.float() * self.start.float() * self.log_scale.exp()).clamp_min(SMALLEST_SCALE)

    @override
    def gain(self, x: Tensor) -> Tensor:
        # Below its start the gradient of the logarithm vanishes with the scale; that of the scale itself does not.
        per_scale = max(x.numel() // max(self.start.numel(), 1), 1)
        fan_in = max(x.numel() // max(x.shape[0], 1), 1) if x.dim() else 1
        return fan_in * torch.sqrt(self.high.clamp_min(1) / per_scale) * (-self.log_scale.detach()).exp().clamp_min(1)

    def _largest(self, x: Tensor) -> Tensor:
        dims = [d for d in range(x.dim()) if not self.shape or self.shape[d] == 1]
        if not x.numel():
            return self.largest.new_zeros(self.shape)
        return torch.linalg.vector_norm(x.detach().float(), float("inf"), dims, keepdim=bool(self.shape))
