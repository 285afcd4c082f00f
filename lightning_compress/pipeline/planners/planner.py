"""What every allocation is: the callbacks, bound to a trained network, and a budget -> a plan that meets it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.budget import Budget
from lightning_compress.core.kinds import HasKind
from lightning_compress.core.plan import Plan


class Allocation(HasKind, ABC):
    """Makes a plan from the weights alone."""

    @abstractmethod
    def __call__(self, composition: Composition, budget: Budget) -> Plan:
        """A plan that meets the budget.

        Args:
            composition: the callbacks and the network they will be applied to, which is left as it is.
            budget: over the composition's space.
        """
