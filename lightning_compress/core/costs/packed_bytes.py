"""Bytes of the packed file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.packed_size import packed_bytes
from lightning_compress.core.profile import Profile


@dataclass(frozen=True)
class PackedBytes(Cost):
    """Bytes of the packed file with everything needed to run the network; an upper bound within 2 %."""

    name: ClassVar[str] = "packed_bytes"
    unit: ClassVar[str] = "bytes"
    label: ClassVar[str] = "size of the packed file"

    @override
    def __call__(self, profile: Profile) -> float:
        return packed_bytes(profile)
