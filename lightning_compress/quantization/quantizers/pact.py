"""PACT: a layer's input is clipped at a trained level, then rounded to equally spaced ones.

    y = (|x| - |x - a| + a) / 2 = clip(x, 0, a),      q(y) = a / (2^b - 1) round(y (2^b - 1) / a)
    dq/da = 1 where x >= a, 0 elsewhere

Source: Choi et al. 2018, PACT (arXiv 1805.06085, section 3, eqs. 1 to 3). The paper's L2 penalty on ``a`` is the weight
decay of the user's optimizer. Ours: ``a`` starts where the squared error of the first batch is least rather than at a
fixed large number, so that a candidate can be scored before any training; and inputs with both signs (which the paper
leaves in floating point) are clipped at both ends of a signed grid. Use it behind ReLU at 4 bits and less, with weight
decay. It breaks without any: nothing but the loss then draws ``a`` down. LSQActivation needs none. A learning rate
that throws ``a`` below zero is the other way: the layer's output and all gradients are zero from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from lightning_compress.quantization.quantizers.activation import ActivationQuantizer
from lightning_compress.quantization.quantizers.fake_quantize import SMALLEST_SCALE, least_squares_scale


@final
class PACT(ActivationQuantizer):
    """Quantization of a layer's input with a trained clipping level. Arguments as for :class:`Quantizer`."""

    kind: ClassVar[str] = "pact"
    learned: ClassVar[bool] = True

    def __init__(self, bits: int, shape: Sequence[int] = ()) -> None:
        super().__init__(bits, shape)
        self.alpha = nn.Parameter(torch.ones(self.shape))

    @property
    def number(self) -> Tensor:
        return self.alpha

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        start = (2 * x.abs().mean() / self.high.sqrt()) if x.numel() else x.new_zeros(())
        start = start.clamp_min(SMALLEST_SCALE)
        self.alpha.copy_(self.high * least_squares_scale(x, start, self.low, self.high, torch.zeros_like(start)))

    def precondition(self, x: Tensor) -> Tensor:
        # The ends as FakeQuantize computes them: what is clipped here is inside its grid, and passes its gradient on.
        x, scale = x.float(), self._step(self.alpha)
        low, high = self.low * scale, self.high * scale
        return torch.where(x >= high, high, torch.where(x < low, low, x))

    def scale_for(self, x: Tensor) -> Tensor:
        return self._step(self.alpha.detach())

    def _step(self, alpha: Tensor) -> Tensor:
        return (alpha.float() / self.high).clamp_min(SMALLEST_SCALE)
