"""Base class of planners that spend a budget."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from math import ceil

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.budget import Budget
from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.errors import CompressError, InfeasibleBudgetError
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import Profile
from lightning_compress.pipeline.planners.planner import Planner


@dataclass(frozen=True, kw_only=True)
class BudgetedPlanner(Planner, ABC):
    """Makes a plan that costs no more than a limit.

    Attributes:
        cost: of a network, from its profile.
        budget: a share of the dense network's cost or the limit itself, see :meth:`Cost.limit`.
    """

    cost: Cost
    budget: float | str

    @property
    def costs(self) -> tuple[Cost, ...]:
        """The cost of the budget."""
        return () if self.cost is None else (self.cost,)

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
        whole, space = self.cost(dense), composition.space()
        try:
            limit = self.cost.limit(self.budget, whole)
        except CompressError as error:
            raise CompressError(f"stage {stage}: {error}") from None

        def spent(plan: Plan) -> float:
            return self.cost(composition.predict(plan))

        try:
            return Budget(spent, limit, space)
        except InfeasibleBudgetError as error:
            least = spent(space.plan(space.smallest))
            share = ceil(1e4 * least / whole) / 1e4  # rounded up, so that it can be met
            given = f" (budget={self.budget:g} of the dense network)" if self._is_share else ""
            raise InfeasibleBudgetError(
                f"stage {stage}: the budget of {self.cost.text(limit)}{given} cannot be met; the smallest feasible one "
                f"is {self.cost.text(self.cost.round_up(least))}{f' (budget={share:g})' if share <= 1 else ''}. Raise "
                f"the budget, or allow smaller values in the search space"
            ) from error

    @property
    def _is_share(self) -> bool:
        return not isinstance(self.budget, str) and self.budget <= 1

    @property
    def limit(self) -> str:
        """The limit in words, for the report."""
        if isinstance(self.budget, str):
            return f"at most {self.budget}"
        if not self._is_share:
            return f"at most {self.cost.text(self.budget)}"
        return f"at most {100 * self.budget:.4g} % of the dense network's {self.cost.label or self.cost.name}"
