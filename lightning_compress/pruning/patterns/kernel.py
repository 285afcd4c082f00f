"""Kernel-wise: each ``k x k`` slice ``weight[o, i]`` of a convolution as one; of a linear layer, each weight.

    score of a slice = root of the mean of its w^2

A dropped slice is a connection between two channels: sparse libraries skip it whole, and the mask has k^2 times fewer
bits than an element-wise one. Paper 1 prunes at this granularity too (arXiv 1912.02254; the score is a reconstruction).
Use it where whole slices can be skipped; it breaks at low densities, where single weights keep much more accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import final

from torch import Tensor
from typing_extensions import override

from lightning_compress.core.plan import Number
from lightning_compress.core.profile import LayerProfile
from lightning_compress.pruning.patterns.pattern import Pattern, best


@final
@dataclass(frozen=True)
class Kernel(Pattern):
    """Keeps the slices with the largest mean of squared scores."""

    @override
    def unit(self, layer: LayerProfile) -> int:
        return prod(layer.kernel)

    @override
    def kept(self, layer: LayerProfile, density: Number) -> int:
        return max(1, round(density * layer.weights / self.unit(layer)))

    @override
    def unit_scores(self, layer: LayerProfile, scores: Tensor) -> Tensor:
        return scores.reshape(-1, self.unit(layer)).double().square().mean(1).sqrt()

    @override
    def mask(self, layer: LayerProfile, scores: Tensor, kept: int) -> Tensor:
        slices = best(self.unit_scores(layer, scores), kept)
        return slices[:, None].expand(-1, self.unit(layer)).reshape(scores.shape)
