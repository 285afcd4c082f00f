"""Per layer: each layer has the density that the plan says, and keeps ``round(density n)`` of its ``n`` units.

Use it with densities that a search has picked. With one density for all it breaks the narrow first layers, which need
more: use network_wide then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor
from typing_extensions import override

from lightning_compress.pruning.scopes.scope import Scope


@final
@dataclass(frozen=True)
class PerLayer(Scope):
    """The plan as it is."""

    @override
    def __call__(
        self, kept: Mapping[str, int], scores: Mapping[str, Tensor], unit: Mapping[str, int]
    ) -> dict[str, int]:
        return dict(kept)
