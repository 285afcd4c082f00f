"""Limits that a plan must meet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Self

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.costs.measured_cost import MeasuredCost
from lightning_compress.core.errors import InfeasibleBudgetError
from lightning_compress.core.profile import Profile
from lightning_compress.pipeline.context import RunContext
from lightning_compress.surgery.structure import network


@dataclass(frozen=True)
class Limit:
    """A budget of a cost.

    Attributes:
        cost: of a network, from its profile.
        budget: a share of the dense network's cost or the limit itself, see :meth:`Cost.limit`.
    """

    cost: Cost
    budget: float | str

    @property
    def is_measured(self) -> bool:
        """Whether the cost of a network is measured, and a profile gives an estimate."""
        return isinstance(self.cost, MeasuredCost)

    @property
    def is_share(self) -> bool:
        """Whether the budget is a share of the dense network's cost."""
        return not isinstance(self.budget, str) and self.budget <= 1

    @property
    def text(self) -> str:
        """The limit in words, for the report."""
        if isinstance(self.budget, str):
            return f"at most {self.budget}"
        if not self.is_share:
            return f"at most {self.cost.text(self.budget)}"
        name = self.cost.name.replace("_", " ") if self.is_measured else self.cost.label or self.cost.name
        return f"at most {100 * self.budget:.4g} % of the dense network's {name}"


@dataclass(frozen=True)
class Resolved:
    """A limit in the unit of its cost.

    Attributes:
        limit: as it was asked for.
        dense: what the dense network costs.
        most: what is allowed.
        scale: measured cost of the dense network over its estimate; 1 where nothing is measured.
    """

    limit: Limit
    dense: float
    most: float
    scale: float

    @classmethod
    def of(cls, limit: Limit, run: RunContext, composition: Composition) -> Self:
        """Return a limit for the dense network of a run, which is measured where the cost is.

        Args:
            limit: as it was asked for.
            run: with the dense network.
            composition: whose weights the cost may depend on.

        Raises:
            CompressError: the budget is none of what it may be.
        """
        limit = replace(limit, cost=composition.priced(limit.cost))
        if not isinstance(limit.cost, MeasuredCost):
            dense = limit.cost(run.dense_profile)
            return cls(limit, dense, limit.cost.limit(limit.budget, dense), 1.0)
        limit.cost.keep_in(run.folder)
        dense = limit.cost.measure(network(run.dense), run.example)
        return cls(limit, dense, limit.cost.limit(limit.budget, dense), dense / limit.cost(run.dense_profile))

    def estimate(self, profile: Profile) -> float:
        """Return the cost of a network by its profile."""
        return self.scale * self.limit.cost(profile)

    def scaled(self, profile: Profile, value: float) -> Self:
        """Return the limit with estimates scaled so that a profile is estimated to cost ``value``.

        Args:
            profile: of a network.
            value: what it costs, in the unit of the cost.
        """
        return replace(self, scale=value / self.limit.cost(profile))

    def check_feasible(self, smallest: Profile, stage: str) -> None:
        """Raise if even the smallest plan costs more.

        Args:
            smallest: profile of the network that the smallest plan gives.
            stage: name of the stage.

        Raises:
            InfeasibleBudgetError: with the smallest budget that can be met.
        """
        least, cost = self.estimate(smallest), self.limit.cost
        if least <= self.most:
            return
        share = ceil(1e4 * least / self.dense) / 1e4  # rounded up, so that it can be met
        given = f" (budget={self.limit.budget:g} of the dense network)" if self.limit.is_share else ""
        raise InfeasibleBudgetError(
            f"stage {stage}: the budget of {cost.text(self.most)}{given} cannot be met; the smallest feasible one is "
            f"{cost.text(cost.round_up(least))}{f' (budget={share:g})' if share <= 1 else ''}. Raise the budget, or "
            f"allow smaller values in the search space"
        )
