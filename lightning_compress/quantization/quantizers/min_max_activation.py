"""Min-max for activations: the grid covers a moving average of the largest input seen in training.

    m <- 0.9 m + 0.1 max |x|,      s = m / high

Source: Jacob et al. 2018 (arXiv 1712.05877, section 3.1), without a zero point. Use it where a trained scale is not
wanted. It breaks with heavy-tailed inputs below 5 bits: use LSQActivation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from lightning_compress.quantization.quantizers.activation import ActivationQuantizer
from lightning_compress.quantization.quantizers.fake_quantize import SMALLEST_SCALE

MOMENTUM = 0.1


@final
class MinMaxActivation(ActivationQuantizer):
    """Moving min-max quantization of a layer's input. Arguments as for :class:`Quantizer`."""

    kind: ClassVar[str] = "min_max_activation"
    learned: ClassVar[bool] = False

    largest: Tensor

    def __init__(self, bits: int, shape: Sequence[int] = ()) -> None:
        super().__init__(bits, shape)
        self.register_buffer("largest", torch.ones(self.shape))

    @property
    @override
    def number(self) -> Tensor:
        return self.largest

    @torch.no_grad()
    @override
    def set_number(self, number: Tensor) -> None:
        self.largest.copy_(number)

    @torch.no_grad()
    @override
    def initialize(self, x: Tensor, counts: Tensor | None = None) -> None:
        self.set_number(x.abs().amax())

    @override
    def before_forward(self, layer: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.training and self.calibrated and args[0].numel():
            with torch.no_grad():
                found = args[0].detach().float().abs().amax()
                # Zeros alone say nothing of how large inputs are.
                self.largest.lerp_(torch.where(found > 0, found, self.largest), MOMENTUM)
        return super().before_forward(layer, args)

    @override
    def scale_for(self, x: Tensor) -> Tensor:
        return (self.largest / self.high).clamp_min(SMALLEST_SCALE)
