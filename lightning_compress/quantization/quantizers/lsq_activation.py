"""LSQ for activations: one trained scale for the input of a layer.

    signed levels as for weights, unsigned 0 ... (2^b - 1) s,      s = s_0 e^p,      p trained from 0

Source: Esser et al. 2020 (arXiv 1902.08153, section 2). Ours: ``s_0`` is where the squared error of the inputs seen in
calibration is least, and ``e^p``, within 1/64 and 64, is positive after any step, which does not depend on the unit of
the inputs. The gradient of p is that of LSQ for inputs of mean square 1 whose scale is ``1 / sqrt(high)``: scaled by
``sqrt(high / N)``, N activations per sample, so that it does not depend on the batch size (a reconstruction: the paper
says "number of features"). Use it below 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.quantization.quantizers.activation import ActivationQuantizer
from lightning_compress.quantization.quantizers.fake_quantize import SMALLEST_SCALE
from lightning_compress.quantization.scale_search import best_scale
from lightning_compress.surgery.bounded import reflected

SPAN = 4.16  # of the logarithm of a learned scale to either side of its start: a factor of 64


@final
class LSQActivation(ActivationQuantizer):
    """Learned-step-size quantization of a layer's input. Arguments as for :class:`Quantizer`.

    Attributes:
        log_share: the parameter p.
        start: the scale where training begins.
    """

    kind: ClassVar[str] = "lsq_activation"
    learned: ClassVar[bool] = True

    start: Tensor

    def __init__(self, bits: int, shape: Sequence[int] = ()) -> None:
        super().__init__(bits, shape)
        self.log_share = nn.Parameter(torch.zeros(self.shape))
        self.register_buffer("start", torch.ones(self.shape))

    @property
    @override
    def number(self) -> Tensor:
        return self.start.float() * self.log_scale.exp()

    @torch.no_grad()
    @override
    def set_number(self, number: Tensor) -> None:
        self.start.copy_(number)
        self.log_share.zero_()

    @torch.no_grad()
    @override
    def initialize(self, x: Tensor, counts: Tensor | None = None) -> None:
        counts = None if counts is None else counts[None]
        self.set_number(best_scale(x[None], float(self.low), float(self.high), counts=counts)[0])

    @property
    @override
    def log_scale(self) -> Tensor:
        return reflected(self.log_share.float(), -SPAN, SPAN)

    @override
    def scale_for(self, x: Tensor) -> Tensor:
        return self.number.clamp_min(SMALLEST_SCALE)

    @override
    def gain(self, x: Tensor) -> Tensor:
        # Below its start the gradient of the logarithm vanishes with the scale; that of the scale itself does not.
        per_sample = max(x.numel() // max(x.shape[0], 1), 1)
        return torch.sqrt(self.high / per_sample) * (-self.log_scale.detach()).exp().clamp_min(1)
