"""Powers of two: a multiplication by a weight is a shift.

    w ~ sign 2^-e s,      e = 0 ... 2^(b-1) - 1;      s: the largest |w| of the channel

One bit is the sign alone. The nearest level is that of the rounded logarithm; what lies below the smallest level gets
it. Source: Miyashita et al. 2016 (arXiv 1603.01025).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor

from lightning_compress.quantization.quantizers.weight_format import WeightFormat

SMALLEST = 1e-30


@final
class PowerOfTwo(WeightFormat):
    """Code: the sign in the highest bit, the exponent in the others."""

    kind: ClassVar[str] = "acme_power_of_two"
    learned: ClassVar[bool] = False

    def __init__(self, bits: int, shape: Sequence[int] = ()) -> None:
        super().__init__(bits, shape)
        self.bits = int(bits)

    def initialize(self, x: Tensor) -> None:
        """Nothing to set: the scale is a function of the weight."""

    @torch.no_grad()
    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        size = weight.detach().float().abs()
        dims = [d for d in range(size.dim()) if not self.shape or self.shape[d] == 1]
        scale = size.amax(dims, keepdim=bool(self.shape)) if size.numel() else size.new_zeros(self.shape)
        exponents = torch.log2((size / scale.clamp_min(SMALLEST)).clamp_min(SMALLEST)).neg().round()
        exponents = exponents.clamp(0, 2 ** (self.bits - 1) - 1)
        return (exponents + (weight < 0) * 2 ** (self.bits - 1)).to(torch.uint8), scale

    def decode(self, codes: Tensor, scale: Tensor) -> Tensor:
        half = 2 ** (self.bits - 1)
        sign = 1 - 2 * (codes >= half).float()
        return sign * torch.exp2(-(codes % half).float()) * scale
