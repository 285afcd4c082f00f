"""The budget: a cost and its limit, and the projection of any proposal onto what the limit allows.

The projection is AMC's *action wall* (He et al. 2018, arXiv 1802.03494, algorithm 1): decisions are taken in order,
and each is clipped to the largest value with which the plan still fits when every later decision is at its minimum.
Unlike the released code, which rounds channels after clipping and can overshoot, the projection works on the values
that can really be taken and asks the real cost, so a projected plan always meets the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isclose

from lightning_compress.core.errors import InfeasibleBudgetError
from lightning_compress.core.local_cost import LocalCost
from lightning_compress.core.plan import Plan
from lightning_compress.core.space import Space


@dataclass(frozen=True)
class Budget:
    """At most ``limit`` of a cost.

    Args:
        cost: plan -> cost, never falling when a choice of ``space`` moves to a later value.
        limit: the largest cost allowed, in the unit of the cost.
        space: the choices the budget is spent on.
        local: the same cost, faster for points that differ in one choice; dropped where it is not the same.

    Raises:
        InfeasibleBudgetError: even the cheapest plan of the space costs more than the limit.
    """

    cost: Callable[[Plan], float]
    limit: float
    space: Space
    local: LocalCost | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        least = self.cost(self.space.plan(self.space.smallest))
        if least > self.limit:
            raise InfeasibleBudgetError(
                f"budget: the limit of {self.limit:,.10g} cannot be met; the smallest feasible one is {least:,.10g}. "
                f"Raise the limit, or allow smaller values in the search space."
            )
        ends = (self.space.smallest, self.space.largest)
        if self.local is not None and not all(self._agrees(self.local, point) for point in ends):
            object.__setattr__(self, "local", None)

    def _agrees(self, local: LocalCost, point: Sequence[int]) -> bool:
        return isclose(local.whole(point), self.cost(self.space.plan(point)), rel_tol=1e-9)

    def moving(self, point: Sequence[int]) -> Moving:
        """Return a point whose choices can be moved one at a time, which is faster than to ask for the cost of each."""
        return Moving(self, list(point))

    def level(self) -> float:
        """Return the largest u in [0, 1] at which the plan of ``Choice.index(u)`` everywhere meets the budget."""
        levels = sorted({i / len(c.values) for c in self.space.choices for i in range(len(c.values))})
        low, high = 0, len(levels)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.meets(self.space.plan(self.at_level(levels[middle]))) else (low, middle)
        # The last level leaves room up to 1; within a bin all levels are the same plan.
        return levels[low] if levels else 1.0

    def at_level(self, unit: float) -> tuple[int, ...]:
        """Return every choice at the same level."""
        # The lower edge of a bin belongs to it; the small step keeps rounding from falling below the edge.
        return tuple(choice.index(unit + 1e-12) for choice in self.space.choices)

    def meets(self, plan: Plan) -> bool:
        """Return whether the plan costs at most the limit."""
        return self.cost(plan) <= self.limit

    def clip(self, decided: Sequence[int], index: int) -> int:
        """Return the largest index up to ``index`` for the next choice that leaves the rest feasible at its minimum.

        Args:
            decided: indices of the choices before this one, already clipped.
            index: the proposal for choice number ``len(decided)``.
        """
        return self.moving((*decided, *self.space.smallest[len(decided) :])).clip(len(decided), index)

    def project(self, indices: Sequence[int]) -> tuple[int, ...]:
        """Return the proposal clipped to the budget, choice by choice: a point of the space that meets it.

        Feasible proposals come back unchanged.
        """
        if self.meets(self.space.plan(indices)):
            return tuple(indices)
        point = self.moving(self.space.smallest)
        for number, index in enumerate(indices):
            point.move(number, point.clip(number, index))
        return tuple(point.indices)


@dataclass
class Moving:
    """A point of a budget's space whose choices move one at a time.

    Attributes:
        budget: whose cost is counted.
        indices: one per choice; moved by :meth:`move` alone.
        cost: of the point.
    """

    budget: Budget
    indices: list[int]
    cost: float = field(init=False)

    def __post_init__(self) -> None:
        local = self.budget.local
        self.cost = self._whole(self.indices) if local is None else local.whole(self.indices)

    def after(self, number: int, index: int) -> float:
        """Return the cost with one choice moved to another index."""
        if self.budget.local is not None:
            return self.budget.local.after(self.indices, self.cost, number, index)
        return self._whole([*self.indices[:number], index, *self.indices[number + 1 :]])

    def clip(self, number: int, index: int) -> int:
        """Return the largest index up to ``index`` of a choice that meets the budget, or 0 where none does."""

        def fits(i: int) -> bool:
            return self.after(number, i) <= self.budget.limit

        if fits(index):
            return index
        low, high = 0, index
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    def move(self, number: int, index: int) -> None:
        """Move one choice to another index."""
        self.cost = self.after(number, index)
        self.indices[number] = index

    def _whole(self, indices: Sequence[int]) -> float:
        return self.budget.cost(self.budget.space.plan(indices))
