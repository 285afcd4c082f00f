"""The solver meets the budget and is near the brute-force optimum, for additive costs and for products."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.core.budget import Budget
from lightning_compress.core.least_error import least_error
from lightning_compress.core.plan import Plan
from lightning_compress.core.space import Choice, Space

VALUES = (0.25, 0.5, 0.75, 1.0)


def chain(widths: list[int]) -> tuple[Space, object]:
    """Return choices of a chain of layers and the cost of a plan: the sum of products of neighboring widths."""
    space = Space(tuple(Choice(f"l{i}", "channels", VALUES) for i in range(len(widths))))

    def cost(plan: Plan) -> float:
        kept = [1.0, *(w * plan.get(f"l{i}", "channels") for i, w in enumerate(widths))]
        return sum(a * b for a, b in pairwise(kept))

    return space, cost


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(0, 10_000), st.floats(0.15, 1.0))
@settings(max_examples=40, deadline=None)
def test_the_plan_meets_the_budget_and_is_near_the_best(widths, seed, share):
    rng = np.random.default_rng(seed)
    space, cost = chain(widths)
    errors = [np.append(np.sort(rng.exponential(size=len(VALUES) - 1))[::-1], 0.0) for _ in widths]
    limit = max(share * cost(space.plan(space.largest)), cost(space.plan(space.smallest)))
    budget = Budget(cost, limit, space)
    found = least_error(errors, budget)
    assert budget.meets(space.plan(found))
    points = [p for p in product(range(len(VALUES)), repeat=len(widths)) if budget.meets(space.plan(p))]
    best = min(sum(e[i] for e, i in zip(errors, p, strict=True)) for p in points)
    worst = sum(e[0] for e in errors)
    error = sum(e[i] for e, i in zip(errors, found, strict=True))
    assert error <= best + 0.5 * (worst - best) + 1e-12


def test_nothing_is_taken_where_nothing_must_be():
    space, cost = chain([3, 4])
    assert least_error([[1, 0.5, 0.2, 0]] * 2, Budget(cost, 1e9, space)) == (3, 3)


def test_a_value_that_is_no_better_than_a_cheaper_one_is_not_paid_for():
    space, cost = chain([3, 4])
    assert least_error([[0.5, 0.5, 0.7, 0.5], [1, 0.5, 0.2, 0]], Budget(cost, 1e9, space)) == (0, 3)


def test_many_values_are_thinned_and_the_budget_is_still_used():
    values = tuple(i / 100 for i in range(1, 101))
    space = Space((Choice("a", "channels", values), Choice("b", "channels", values)))

    def cost(plan: Plan) -> float:
        return plan.get("a", "channels") + plan.get("b", "channels")

    errors = [[(1 - v) ** 2 for v in values]] * 2
    found = least_error(errors, Budget(cost, 1.0, space))
    assert cost(space.plan(found)) == pytest.approx(1.0, abs=0.08)
