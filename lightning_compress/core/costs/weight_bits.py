"""Bits of the non-zero weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.profile import Profile


@dataclass(frozen=True)
class WeightBits(Cost):
    """Bits of the non-zero weights: the size that the papers report (no indices, scales, biases)."""

    name: ClassVar[str] = "weight_bits"
    unit: ClassVar[str] = "bits"
    label: ClassVar[str] = "bits of the weights alone (papers' metric)"

    @override
    def __call__(self, profile: Profile) -> float:
        return sum(layer.nonzeros * layer.weight_bits for layer in profile)
