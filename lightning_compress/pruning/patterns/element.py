"""Element-wise: each weight by itself; of ``n`` weights the ``round(density n)`` with the largest magnitude stay.

    keep w where |w| is among the round(density n) largest

Source: Han et al. 2015 (arXiv 1506.02626). Use it for the smallest files and the least loss; it breaks the hope for
speed where hardware and libraries are dense.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor
from typing_extensions import override

from lightning_compress.core.plan import Number
from lightning_compress.core.profile import LayerProfile
from lightning_compress.pruning.patterns.pattern import Pattern, best


@final
@dataclass(frozen=True)
class Element(Pattern):
    """Keeps the weights with the highest scores (Han et al. 2015, arXiv 1506.02626)."""

    @override
    def unit(self, layer: LayerProfile) -> int:
        return 1

    @override
    def kept(self, layer: LayerProfile, density: Number) -> int:
        return max(1, round(density * layer.weights))

    @override
    def unit_scores(self, layer: LayerProfile, scores: Tensor) -> Tensor:
        return scores.flatten()

    @override
    def mask(self, layer: LayerProfile, scores: Tensor, kept: int) -> Tensor:
        return best(scores.flatten(), kept).view(scores.shape)
