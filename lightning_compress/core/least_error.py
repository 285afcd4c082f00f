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
        while self._cost(point) > self.budget.limit:
            choice, index = self._cheapest_step(point)
            point[choice] = index
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

    def _cheapest_step(self, point: list[int]) -> tuple[int, int]:
        """Return the choice and its lower index with the least error per cost saved; a step that ends it costs less."""
        here = self._cost(point)
        over = here - self.budget.limit
        best = (inf, 0.0, 0, 0)
        for i, levels in enumerate(self.levels):
            for level in levels[: levels.index(point[i])]:
                saved = here - self._cost([*point[:i], level, *point[i + 1 :]])
                if saved > 0:
                    # Beyond what is still over the limit nothing more is won.
                    price = (self.errors[i][level] - self.errors[i][point[i]]) / min(saved, over)
                    best = min(best, (price, -saved, i, level))
        if best[0] == inf:  # no single step saves anything: all go to their least
            return self._any_lower(point)
        return best[2], best[3]

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
