"""DoReFa: weights are squashed to [-1, 1], then rounded to equally spaced levels.

    w' = tanh(w) / max |tanh(w)|,      q(w) = 2 / (2^b - 1) round((2^b - 1) (w' / 2 + 1/2)) - 1
    one bit: q(w) = mean |w| sign(w)

Source: Zhou et al. 2016, DoReFa-Net (arXiv 1606.06160, section 2.3, eqs. 7 to 9). Gradients pass straight through the
rounding and by the chain rule through the rest. Ours: the maximum is that of each output channel where scales are per
channel (the paper's is that of the layer), and zero has no level, so that sign(0) is the upper one. Use it for networks
trained at few bits from the start, with a batch norm behind each layer. It breaks trained layers without a batch norm,
such as the last one: its levels reach 1 however small the weights were; use LSQ there.
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
class DoReFa(WeightQuantizer):
    """DoReFa quantization of weights. Arguments as for :class:`Quantizer`."""

    kind: ClassVar[str] = "dorefa"
    learned: ClassVar[bool] = False

    def __init__(self, bits: int, shape: Sequence[int] = ()) -> None:
        super().__init__(bits, shape)
        self.shift.fill_(0.5)  # an even number of levels, in pairs around zero
        self.low.fill_(-(2.0 ** (bits - 1)))
        self.high.fill_(2.0 ** (bits - 1) - 1)

    def initialize(self, x: Tensor) -> None:
        """Do nothing: the grid is given, and the squashing is a function of the weight."""

    @override
    def precondition(self, x: Tensor) -> Tensor:
        x = x.float()
        squashed = torch.tanh(x)
        largest = squashed.abs().amax(self._dims(x), keepdim=bool(self.shape)) if x.numel() else squashed.sum()
        # A where, not a branch: one compiled step then serves one bit too.
        return torch.where(self.bits == 1, x, squashed / largest.clamp_min(SMALLEST_SCALE))

    @override
    def scale_for(self, x: Tensor) -> Tensor:
        size = x.detach().float().abs()
        mean = size.mean(self._dims(x), keepdim=bool(self.shape)) if x.numel() else size.new_zeros(self.shape)
        scale = torch.where(self.bits == 1, 2 * mean, 2 / (self.high - self.low))
        return scale.clamp_min(SMALLEST_SCALE)

    def _dims(self, x: Tensor) -> list[int]:
        """Return the dimensions that share a scale."""
        return [d for d in range(x.dim()) if not self.shape or self.shape[d] == 1]
