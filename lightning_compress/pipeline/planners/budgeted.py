"""Base class of planners that spend a budget."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.budget import Budget
from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.errors import CompressError, InfeasibleBudgetError
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import Profile
from lightning_compress.pipeline.planners.planner import Planner


@dataclass(frozen=True)
class Limit:
    """A budget beside the one that a planner spends.

    Attributes:
        cost: of a network, from its profile.
        budget: a share of the dense network's cost or the limit itself, see :meth:`Cost.limit`.
    """

    cost: Cost
    budget: float | str

    @property
    def text(self) -> str:
        """The limit in words, for the report."""
        if isinstance(self.budget, str):
            return f"at most {self.budget}"
        if self.budget > 1:
            return f"at most {self.cost.text(self.budget)}"
        return f"at most {100 * self.budget:.4g} % of the dense network's {self.cost.label or self.cost.name}"


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

    def budget_for(self, composition: Composition, dense: Profile, stage: str) -> Budget:
        """Return the budget over all choices of a stage.

        Args:
            composition: the callbacks of the stage.
            dense: profile of the dense network, of whose cost the budget is a share.
            stage: name of the stage, for the message.

        Raises:
            CompressError: a setting cannot be.
            InfeasibleBudgetError: no plan meets the budget.
        """
        self.check(stage)
        space = composition.space()
        all_ = [Limit(self.cost, self.budget), *self.limits.values()]
        try:
            most = [limit.cost.limit(limit.budget, limit.cost(dense)) for limit in all_]
        except CompressError as error:
            raise CompressError(f"stage {stage}: {error}") from None
        least = composition.predict(space.plan(space.smallest))
        for limit, number in zip(all_, most, strict=True):
            _check_feasible(limit, number, limit.cost(dense), limit.cost(least), stage)

        def spent(plan: Plan) -> float:
            # What is taken of another limit is told as the same share of the first.
            profile = composition.predict(plan)
            others = zip(all_[1:], most[1:], strict=True)
            return max(self.cost(profile), *(most[0] * limit.cost(profile) / number for limit, number in others), 0.0)

        return Budget(spent, most[0], space)

    @property
    def limit(self) -> str:
        """The limits in words, for the report."""
        return " and ".join(limit.text for limit in (Limit(self.cost, self.budget), *self.limits.values()))


def _check_feasible(limit: Limit, most: float, dense: float, least: float, stage: str) -> None:
    """Raise if even the smallest plan costs more.

    Args:
        limit: that was asked for.
        most: what it allows, in the unit of the cost.
        dense: what the dense network costs.
        least: what the smallest plan costs.
        stage: name of the stage.
    """
    if least <= most:
        return
    cost, share = limit.cost, ceil(1e4 * least / dense) / 1e4  # rounded up, so that it can be met
    is_share = not isinstance(limit.budget, str) and limit.budget <= 1
    given = f" (budget={limit.budget:g} of the dense network)" if is_share else ""
    raise InfeasibleBudgetError(
        f"stage {stage}: the budget of {cost.text(most)}{given} cannot be met; the smallest feasible one is "
        f"{cost.text(cost.round_up(least))}{f' (budget={share:g})' if share <= 1 else ''}. Raise the budget, or allow "
        f"smaller values in the search space"
    )
