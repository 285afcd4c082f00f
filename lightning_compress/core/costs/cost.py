"""Costs: profile -> number. Each is additive over layers and never rises when a layer gets smaller."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from lightning_compress.core.profile import Profile


class Cost(ABC):
    """What a network costs, computed from its profile alone."""

    unit: ClassVar[str]

    @abstractmethod
    def __call__(self, profile: Profile) -> float:
        """The cost of the network with this profile, in :attr:`unit`."""
