"""Base class of scopes, which turn a plan's kept units per layer into those really kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from lightning_compress.core.kinds import HasKind


class Scope(HasKind, ABC):
    """Among which weights the kept ones are chosen."""

    @abstractmethod
    def __call__(
        self, kept: Mapping[str, int], scores: Mapping[str, Tensor], unit: Mapping[str, int]
    ) -> dict[str, int]:
        """Return kept units of each layer.

        Args:
            kept: layer -> units by the plan's density.
            scores: layer -> score of each unit, shape ``(units,)``.
            unit: layer -> weights in a unit.

        Returns:
            Layer -> kept units, at least one, with no more weights in all than ``kept`` has; the same again when it is
            given back with the same scores.
        """
