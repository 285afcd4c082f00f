"""All that a searcher may see: choices, their budget, and profiles. Never a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lightning_compress.core.budget import Budget
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import Profile
from lightning_compress.core.space import Space


@dataclass(frozen=True)
class Problem:
    """A search problem.

    Attributes:
        budget: what a plan may cost; holds the space.
        dense: profile of the network before the search.
        predict: plan -> profile of the network that it makes.
    """

    budget: Budget
    dense: Profile
    predict: Callable[[Plan], Profile]

    @property
    def space(self) -> Space:
        """The choices."""
        return self.budget.space
