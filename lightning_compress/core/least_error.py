"""Find the plan of the least additive error that meets a budget.

    min sum_i e_i(v_i)     s.t.     cost(v) <= limit

Costs need not be additive over choices: a layer's MACs are the product of two channel counts. So prices are asked of
the real cost at the current point. Descend from the largest point by the step with the least error per cost saved (a
step of the lower convex hull of each choice, as Lagrangian relaxation takes them), then repair what the discrete steps
left: raise choices while something fits, and exchange one lowered choice for one raised while the error falls. Where
there are no more than ``ALL`` points, the best of all is taken. Ours; for additive costs the exact answer is that of
the knapsack in quantization/bit_allocation.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import permutations, product
from math import inf, prod

import numpy as np

from lightning_compress.core.budget import Budget

LEVELS = 16  # values of one choice that are tried; the errors are smooth, so more change little
ALL = 256  # points up to which all are tried
ROUNDS = 20  # of exchanges, at most


def least_error(errors: Sequence[Sequence[float]], budget: Budget) -> tuple[int, ...]:
    """Return the point of the budget's space with the least sum of errors, as far as local steps find it.

    Args:
        errors: for each choice of the space the error of each of its values, in any unit that adds up.
        budget: the limit.

    Returns:
        One index per choice; a point that meets the budget.
    """
    return _Descent(errors, budget).solve()


_Step = tuple[float, float, int, int]  # price, less what is saved, choice, index


class _Descent:
    def __init__(self, errors: Sequence[Sequence[float]], budget: Budget) -> None:
        self.budget = budget
        self.errors = [np.asarray(e, dtype=np.float64) for e in errors]
        self.levels = [_levels(e) for e in self.errors]
        self._costs: dict[tuple[int, ...], float] = {}

    def solve(self) -> tuple[int, ...]:
        if prod(len(levels) for levels in self.levels) <= ALL:
            return self._best_of_all()
        point = [levels[-1] for levels in self.levels]
        self._descend(point)
        self._raise(point)
        for _ in range(ROUNDS):
            if not self._exchange(point):
                break
        return tuple(point)

    def _best_of_all(self) -> tuple[int, ...]:
        """Return the best of all points, which are few."""
        points = product(*self.levels)
        able = (point for point in points if self._cost(point) <= self.budget.limit)
        return min(able, key=lambda point: (sum(e[i] for e, i in zip(self.errors, point, strict=True)), point))

    def _cost(self, point: Sequence[int]) -> float:
        key = tuple(point)
        if key not in self._costs:
            self._costs[key] = self.budget.cost(self.budget.space.plan(key))
        return self._costs[key]

    def _descend(self, point: list[int]) -> None:
        """Take the step with the least error per cost saved until the limit is met.

        Prices are asked again only of the step that looks cheapest (lazy greedy, Minoux 1978): as other choices get
        smaller a step saves less, so prices that were asked before are lower bounds.
        """
        steps: list[_Step] = []
        while self._cost(point) > self.budget.limit:
            if not steps:
                steps = [step for i in range(len(point)) for step in self._steps(point, i)]
                heapify(steps)
            if not steps:  # no single step saves anything: all go to their least
                i, index = self._any_lower(point)
            else:
                *_, i, index = self._cheapest(point, steps)
                steps = [step for step in steps if step[2] != i]
            point[i] = index
            if self._cost(point) > self.budget.limit:
                steps += self._steps(point, i)
                heapify(steps)

    def _cheapest(self, point: list[int], steps: list[_Step]) -> _Step:
        """Return the step with the least error per cost saved at the point."""
        while True:
            _, _, i, index = heappop(steps)
            now = self._step(point, i, index)
            if not steps or now <= steps[0]:
                return now
            heappush(steps, now)

    def _steps(self, point: list[int], i: int) -> list[_Step]:
        """Return the steps of one choice that save something."""
        lower = self.levels[i][: self.levels[i].index(point[i])]
        found = [self._step(point, i, index) for index in lower]
        return [step for step in found if step[0] < inf]

    def _step(self, point: list[int], i: int, index: int) -> _Step:
        """Return what a step to a lower index costs: error per cost saved, then the more the better."""
        here = self._cost(point)
        saved = here - self._cost([*point[:i], index, *point[i + 1 :]])
        if saved <= 0:
            return inf, 0.0, i, index
        # Beyond what is still over the limit nothing more is won.
        price = (self.errors[i][index] - self.errors[i][point[i]]) / min(saved, here - self.budget.limit)
        return float(price), -saved, i, index

    def _any_lower(self, point: list[int]) -> tuple[int, int]:
        return next((i, self.levels[i][0]) for i in range(len(point)) if point[i] != self.levels[i][0])

    def _raise(self, point: list[int]) -> None:
        """Take steps up, the largest fall of the error first, while one fits."""
        while True:
            found = [
                (self.errors[i][level] - self.errors[i][point[i]], i, level)
                for i, levels in enumerate(self.levels)
                for level in levels[levels.index(point[i]) + 1 :]
            ]
            for gain, i, level in sorted(found):
                if gain < 0 and self._cost([*point[:i], level, *point[i + 1 :]]) <= self.budget.limit:
                    point[i] = level
                    break
            else:
                return

    def _exchange(self, point: list[int]) -> bool:
        """Lower one choice by a level and raise another as far as fits, where that lowers the error."""
        changed = False
        for low, high in permutations(range(len(point)), 2):
            below = self._neighbor(low, point[low], -1)
            if below is None:
                continue
            loss = self.errors[low][below] - self.errors[low][point[low]]
            levels = self.levels[high]
            for level in reversed(levels[levels.index(point[high]) + 1 :]):
                gain = self.errors[high][point[high]] - self.errors[high][level]
                if gain <= loss * (1 + 1e-9):
                    break
                moved = list(point)
                moved[low], moved[high] = below, level
                if self._cost(moved) <= self.budget.limit:
                    point[:] = moved
                    changed = True
                    break
        return changed

    def _neighbor(self, choice: int, index: int, step: int) -> int | None:
        levels = self.levels[choice]
        at = levels.index(index) + step
        return levels[at] if 0 <= at < len(levels) else None


def _levels(errors: np.ndarray) -> list[int]:
    """Return the indices worth taking: each with a smaller error than all below it, evenly thinned to ``LEVELS``."""
    kept = [i for i in range(len(errors)) if i == 0 or errors[i] < errors[:i].min()]
    if len(kept) > LEVELS:
        kept = [kept[round(i * (len(kept) - 1) / (LEVELS - 1))] for i in range(LEVELS)]
    return kept
