"""Base class of costs that are measured on a network, and estimated from its profile."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from lightning_compress.core.costs.cost import Cost


class MeasuredCost(Cost):
    """A cost that only running a network tells.

    Calling it with a profile gives an estimate by which budgets project plans; the planner then measures the network of
    its plan, makes the plan smaller while that is above the limit, and refuses a plan that stays above it.
    """

    @abstractmethod
    def measure(self, net: Any, example: Any) -> float:
        """Return the cost of a network, in :attr:`unit`.

        Args:
            net: any module, which is not changed; its weights do not matter.
            example: one input batch.
        """

    @abstractmethod
    def keep_in(self, folder: Path) -> None:
        """Read and write what is measured in a folder, so that a run that goes on measures nothing again."""
