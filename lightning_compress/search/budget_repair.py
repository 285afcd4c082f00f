"""Fitting a wanted point to the budget without favoring the layers that come first.

    scale:  round(t * wanted), with the largest t in {0, 1/64, ..., 1} that meets the budget
    spend:  raise one choice by one step at a time, in a random order, until no step fits any more

``Budget.project`` lets the first choices have what they ask for and starves the last ones, which suits an actor that
walks through the layers and knows what is left. A searcher that draws all choices at once is better served by asking
the same sacrifice of all. Ours, no paper's. Both need only that the cost never falls along a choice's values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_compress.core.budget import Budget

PARTS = 64


def scale(budget: Budget, wanted: Sequence[int]) -> tuple[int, ...]:
    """Return the largest share of ``wanted`` that meets the budget; ``wanted`` itself when it does."""

    def share(part: int) -> tuple[int, ...]:
        return tuple((2 * part * int(index) + PARTS) // (2 * PARTS) for index in wanted)  # rounds half up

    if budget.meets(budget.space.plan(share(PARTS))):
        return share(PARTS)
    low, high = 0, PARTS  # share 0 is the cheapest point, which always fits
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if budget.meets(budget.space.plan(share(middle))) else (low, middle)
    return share(low)


def spend(budget: Budget, indices: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
    """Return a point raised until it is maximal: any further step of any choice would break the budget."""
    point, top = budget.moving([int(i) for i in indices]), budget.space.largest
    able = list(range(len(top)))
    while able:
        left = []
        for i in rng.permutation(able):
            raised = point.indices[i] + 1
            if raised <= top[i] and point.after(i, raised) <= budget.limit:
                point.move(i, raised)
                left.append(int(i))  # what does not fit now fits no better later: the cost only grows
        able = sorted(left)
    return tuple(point.indices)
