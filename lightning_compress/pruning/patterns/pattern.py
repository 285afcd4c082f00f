"""Base class of mask patterns: the smallest piece of a weight that is kept or dropped, and which to keep."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_compress.core.kinds import HasKind
from lightning_compress.core.plan import Number
from lightning_compress.core.profile import LayerProfile


class Pattern(HasKind, ABC):
    """Decides masks from scores. All patterns keep at least one unit of a layer."""

    @abstractmethod
    def unit(self, layer: LayerProfile) -> int:
        """Return weights that are kept or dropped together: one bit of the stored mask."""

    @abstractmethod
    def kept(self, layer: LayerProfile, density: Number) -> int:
        """Return units that stay at a density in (0, 1].

        Raises:
            CompressError: the pattern cannot have that density at this layer.
        """

    @abstractmethod
    def unit_scores(self, layer: LayerProfile, scores: Tensor) -> Tensor:
        """Return scores of the units from those of their weights, shape ``(units,)``, comparable between layers."""

    @abstractmethod
    def mask(self, layer: LayerProfile, scores: Tensor, kept: int) -> Tensor:
        """Return the mask with the ``kept`` best units.

        Args:
            layer: its profile.
            scores: of each weight, not negative, in the weight's shape. Equal scores are kept in order of position.
            kept: number of units, as :meth:`kept` gives it.

        Returns:
            Bool, in the weight's shape. Masks of fewer units are within those of more, for the same scores.
        """


def best(scores: Tensor, kept: int) -> Tensor:
    """Return bool mask of the ``kept`` highest of the scores, shape ``(n,)``; the earlier of equals."""
    order = scores.sort(descending=True, stable=True).indices
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[order[:kept]] = True
    return mask
