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
        prior: the point where searches start, found without a search; None starts at the uniform plan.
        errors: of each choice's values, in the order of the space, by the closed-form planner; None if not known.
    """

    budget: Budget
    dense: Profile
    predict: Callable[[Plan], Profile]
    prior: tuple[int, ...] | None = None
    errors: tuple[tuple[float, ...], ...] | None = None

    @property
    def space(self) -> Space:
        """The choices."""
        return self.budget.space

    @property
    def start(self) -> tuple[int, ...]:
        """The point that searches start from: the prior, or without one the largest uniform plan within the budget."""
        return self.budget.at_level(self.budget.level()) if self.prior is None else self.prior
