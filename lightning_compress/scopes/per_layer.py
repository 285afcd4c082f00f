"""Per layer: each layer has the density that the plan says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from lightning_compress.scopes.scope import Scope


@final
@dataclass(frozen=True)
class PerLayer(Scope):
    """The plan as it is."""

    def __call__(
        self, kept: Mapping[str, int], scores: Mapping[str, Tensor], unit: Mapping[str, int]
    ) -> dict[str, int]:
        return dict(kept)
