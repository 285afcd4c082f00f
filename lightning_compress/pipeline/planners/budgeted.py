"""Base class of planners that spend a budget."""

from __future__ import annotations

import warnings
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.budget import Budget
from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.errors import CompressError
from lightning_compress.core.local_cost import LocalCost
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.planners.limit import Limit, Resolved
from lightning_compress.pipeline.planners.measured_plan import met
from lightning_compress.pipeline.planners.planner import Planned, Planner
from lightning_compress.pipeline.student import Student


@dataclass(frozen=True, kw_only=True)
class BudgetedPlanner(Planner, ABC):
    """Makes a plan that costs no more than a limit.

    Attributes:
        cost: of a network, from its profile.
        budget: a share of the dense network's cost or the limit itself, see :meth:`Cost.limit`.
        limits: name -> a limit of another cost that the plan must meet too.
    """

    cost: Cost
    budget: float | str
    limits: Mapping[str, Limit] = field(default_factory=dict)

    @property
    def costs(self) -> tuple[Cost, ...]:
        """The cost of the budget, and those of the other limits."""
        own = () if self.cost is None else (self.cost,)
        return (*own, *(limit.cost for limit in self.limits.values()))

    def check(self, stage: str) -> None:
        """Raise if there is no cost or budget, or the budget is none of what it may be.

        Raises:
            CompressError: it is so.
        """
        if self.cost is None or self.budget is None:
            missing = "cost" if self.cost is None else "budget"
            raise CompressError(
                f"stage {stage}: {missing} is null, and a plan is to be found under a budget; set a cost, and budget "
                f"to a share of what the dense network costs (1.0 sets no limit) or above 1 to the limit itself"
            )
        try:
            for limit in (Limit(self.cost, self.budget), *self.limits.values()):
                limit.cost.check_budget(limit.budget)
        except CompressError as error:
            raise CompressError(f"stage {stage}: {error}") from None

    def budget_for(self, composition: Composition, run: RunContext, stage: str) -> Budget:
        """Return the budget over all choices of a stage, in the unit of the cost.

        Args:
            composition: the callbacks of the stage.
            run: with the dense network, of whose cost the budget is a share.
            stage: name of the stage, for the message.

        Raises:
            CompressError: a setting cannot be.
            InfeasibleBudgetError: no plan meets the budget.
        """
        self.check(stage)
        limits = self._resolved(composition, run, stage)
        _warn_of_no_effect(limits, stage)
        space = composition.space()
        least = composition.predict(space.plan(space.smallest))
        for limit in limits:
            limit.check_feasible(least, stage)
        return _budget_under(composition, limits)

    def _resolved(self, composition: Composition, run: RunContext, stage: str) -> list[Resolved]:
        """Return the limit of the cost, and the other limits behind it."""
        try:
            asked = (Limit(self.cost, self.budget), *self.limits.values())
            return [Resolved.of(limit, run, composition) for limit in asked]
        except CompressError as error:
            raise CompressError(f"stage {stage}: {error}") from None

    def measured(
        self, planned: Planned, composition: Composition, student: Student, run: RunContext, folder: Path
    ) -> Planned:
        """Return the plan, made smaller until the network that it gives meets the limits that are measured.

        Raises:
            CompressError: no plan of the space does.
        """
        limits = self._resolved(composition, run, folder.name)
        asked = [limit.limit.cost for limit in limits if limit.limit.is_measured]
        if not asked:
            return planned
        budget_of = partial(_budget_under, composition)
        found = met(planned.plan, limits, budget_of, composition, student, run, planned.errors or ())
        told = " and ".join(f"{cost.text(value)}" for cost, value in zip(asked, found.values, strict=True))
        return replace(planned, plan=found.plan, origin=f"{planned.origin}; measured to take {told}")

    @property
    def limit(self) -> str:
        """The limits in words, for the report."""
        return " and ".join(limit.text for limit in (Limit(self.cost, self.budget), *self.limits.values()))


def _warn_of_no_effect(limits: Sequence[Resolved], stage: str) -> None:
    """Warn where the dense network meets all limits and one is a number, which nobody gives to set none."""
    if all(limit.dense <= limit.most for limit in limits) and not all(limit.limit.is_share for limit in limits):
        told = " and ".join(
            f"{limit.limit.cost.text(limit.most)} (the dense network: {limit.limit.cost.text(limit.dense)})"
            for limit in limits
        )
        warnings.warn(
            f"stage {stage}: the dense network meets the budget of {told} as it is, so there may be nothing to do; "
            f"give less, or up to 1 a share of the dense network's cost",
            stacklevel=2,
        )


def _budget_under(composition: Composition, limits: Sequence[Resolved]) -> Budget:
    """Return the budget over all choices of a composition, in the unit of the first limit's cost.

    Raises:
        InfeasibleBudgetError: no plan meets the limits.
    """
    own, *others = limits
    space = composition.space()

    def spent(plan: Plan) -> float:
        # What is taken of another limit is told as the same share of the first.
        profile = composition.predict(plan)
        return max(own.estimate(profile), *(own.most * o.estimate(profile) / o.most for o in others), 0.0)

    # The larger of several costs is not additive over layers, nor is what is measured.
    local = None if others or own.limit.is_measured else LocalCost(composition.predict, own.estimate, space)
    return Budget(spent, own.most, space, local)
