"""PACT: a layer's input is clipped at a trained level, then rounded to equally spaced ones.

    y = (|x| - |x - a| + a) / 2 = clip(x, 0, a),      q(y) = a / (2^b - 1) round(y (2^b - 1) / a)
    dq/da = 1 where x >= a, 0 elsewhere

Source: Choi et al. 2018, PACT (arXiv 1805.06085, section 3, eqs. 1 to 3). The paper's L2 penalty on ``a`` is the weight
decay of the user's optimizer. Ours: ``a`` starts where the squared error of the first inputs is least rather than at a
fixed large number, so that a candidate can be scored before any training; and inputs with both signs (which the paper
leaves in floating point) are clipped at both ends of a signed grid; and what is trained is ``a`` over the root mean
square of these inputs, from 1/64 to the largest input or its start, so that after any step ``a`` is positive, and
neither its step nor its decay depends on the unit of the inputs. Use it behind ReLU at 4 bits and less, with weight
decay. It breaks without any: nothing but the loss then draws ``a`` down. LSQActivation needs none.
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

LEAST = 1 / 64  # of the clipping level over the root mean square of the inputs


@final
class PACT(ActivationQuantizer):
    """Quantization of a layer's input with a trained clipping level. Arguments as for :class:`Quantizer`.

    Attributes:
        level: the parameter, the clipping level over :attr:`unit`.
        unit: root mean square of the inputs in calibration.
        most: the largest level, that of the largest of these inputs or where it starts: beyond it nothing is clipped,
            and no gradient would lead back.
    """

    kind: ClassVar[str] = "pact"
    learned: ClassVar[bool] = True

    unit: Tensor
    most: Tensor

    def __init__(self, bits: int, shape: Sequence[int] = ()) -> None:
        super().__init__(bits, shape)
        self.level = nn.Parameter(torch.ones(self.shape))
        self.register_buffer("unit", torch.ones(self.shape))
        self.register_buffer("most", torch.full(self.shape, 2.0))

    @property
    @override
    def number(self) -> Tensor:
        return self.unit.float() * reflected(self.level.float(), LEAST, self.most.float())

    @torch.no_grad()
    @override
    def set_number(self, number: Tensor) -> None:
        self.most.copy_((self.most * self.unit / number).clamp_min(2.0))
        self.unit.copy_(number)
        self.level.fill_(1.0)

    @torch.no_grad()
    @override
    def initialize(self, x: Tensor, counts: Tensor | None = None) -> None:
        counts = torch.ones_like(x) if counts is None else counts
        largest = x.abs().amax()
        self.unit.copy_(largest * ((counts * (x / largest).square()).sum() / counts.sum()).sqrt())
        clip = self.high * best_scale(x[None], float(self.low), float(self.high), counts=counts[None])[0]
        # A few values may fit best on a grid of which they use the lower levels alone.
        self.most.copy_((torch.maximum(largest, clip) / self.unit).clamp_min(1.0))
        self.level.copy_(torch.minimum((clip / self.unit).clamp_min(LEAST), self.most))

    @override
    def precondition(self, x: Tensor) -> Tensor:
        # The ends as FakeQuantize computes them: what is clipped here is inside its grid, and passes its gradient on.
        x, scale = x.float(), self.scale_for(x)
        low, high = self.low * scale, self.high * scale
        return torch.where(x >= high, high, torch.where(x < low, low, x))

    @override
    def scale_for(self, x: Tensor) -> Tensor:
        return (self.number / self.high).clamp_min(SMALLEST_SCALE)
