"""Multiply-accumulates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.profile import Profile


@dataclass(frozen=True)
class MACs(Cost):
    """Multiply-accumulates per sample; weights that are zero do not count."""

    kind: ClassVar[str] = "macs"
    name: ClassVar[str] = "macs"
    unit: ClassVar[str] = "MACs"
    label: ClassVar[str] = "MACs per sample"

    @override
    def __call__(self, profile: Profile) -> float:
        return profile.macs
