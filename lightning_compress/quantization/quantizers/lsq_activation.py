"""LSQ for activations: one trained scale for the input of a layer.

    signed levels as for weights, unsigned 0 ... (2^b - 1) s;      gradient of s scaled by 1 / sqrt(N high)

Source: Esser et al. 2020 (arXiv 1902.08153, section 2). The scale starts at the least-squares optimum of the first
batch. N is the number of activations per sample, so that the gradient does not depend on the batch size (a
reconstruction: the paper says "number of features"). Use it below 8 bits; it breaks when the first batch is not like
the others, for the scale then has far to go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from lightning_compress.quantization.quantizers.activation import ActivationQuantizer
from lightning_compress.quantization.quantizers.fake_quantize import SMALLEST_SCALE, least_squares_scale


@final
class LSQActivation(ActivationQuantizer):
    """Learned-step-size quantization of a layer's input. Arguments as for :class:`Quantizer`."""

    kind: ClassVar[str] = "lsq_activation"
    learned: ClassVar[bool] = True

    def __init__(self, bits: int, shape: Sequence[int] = ()) -> None:
        super().__init__(bits, shape)
        self.scale = nn.Parameter(torch.ones(self.shape))

    @property
    def number(self) -> Tensor:
        return self.scale

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        start = (2 * x.abs().mean() / self.high.sqrt()) if x.numel() else x.new_zeros(())
        start = start.clamp_min(SMALLEST_SCALE)
        self.scale.copy_(least_squares_scale(x, start, self.low, self.high, torch.zeros_like(start)))

    def scale_for(self, x: Tensor) -> Tensor:
        return self.scale.float().clamp_min(SMALLEST_SCALE)

    def gain(self, x: Tensor) -> Tensor:
        per_sample = max(x.numel() // max(x.shape[0], 1), 1)
        return torch.rsqrt(self.high * per_sample)
