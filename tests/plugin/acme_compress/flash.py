"""A cost: the flash memory of a microcontroller that reads whole words of 4 bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.profile import Profile


@dataclass(frozen=True)
class Flash(Cost):
    """Words of the weights of each layer."""

    kind: ClassVar[str] = "acme_flash"
    name: ClassVar[str] = "acme_flash"
    unit: ClassVar[str] = "words"
    label: ClassVar[str] = "words of flash memory"

    def __call__(self, profile: Profile) -> float:
        return sum(-(-layer.nonzeros * layer.weight_bits // 32) for layer in profile)
