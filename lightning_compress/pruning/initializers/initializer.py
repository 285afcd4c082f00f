"""Base class of initializers, which set the weights of a network after layers were removed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from lightning import LightningModule
from torch import nn

from lightning_compress.core.kinds import HasKind


class Initializer(HasKind, ABC):
    """Sets weights after a removal."""

    def gather(self, module: LightningModule, batches: Iterable[Any]) -> None:
        """Keep on the network, before the removal, what is needed to know of it; by default nothing.

        Args:
            module: the user's, whose steps are run where batches are needed.
            batches: of train data.
        """
        return

    @abstractmethod
    def __call__(self, net: nn.Module, readers: Mapping[str, bool]) -> None:
        """Set the weights of a network, in place.

        Args:
            net: after the removal.
            readers: layers that read what removed blocks and layers gave, in the order in which they run -> whether
                they got narrower, in a plain chain; the weights of those are zeros.
        """
