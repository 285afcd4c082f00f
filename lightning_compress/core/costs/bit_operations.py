"""Bit operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.profile import Profile


@dataclass(frozen=True)
class BitOperations(Cost):
    """Sum of MACs x weight bits x activation bits: what integer hardware with bit-serial arithmetic spends."""

    name: ClassVar[str] = "bit_operations"
    unit: ClassVar[str] = "bit operations"
    label: ClassVar[str] = "bit operations per sample"

    @override
    def __call__(self, profile: Profile) -> float:
        return sum(layer.macs * layer.weight_bits * layer.act_bits for layer in profile)
