"""Number of parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.profile import Profile


@dataclass(frozen=True)
class Parameters(Cost):
    """Number of parameters, of all kinds."""

    name: ClassVar[str] = "parameters"
    unit: ClassVar[str] = "parameters"
    label: ClassVar[str] = "parameters"

    @override
    def __call__(self, profile: Profile) -> float:
        return profile.parameters
