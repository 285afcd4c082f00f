"""Fitting points to a budget: always met, never above what was wanted, nothing left to spend."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.search.budget_repair import PARTS, scale, spend
from lightning_compress.testing import problems

BUDGETS = [
    make(layers=6, budget=share).problem.budget
    for make in (problems.channels, problems.bits)
    for share in (0.3, 0.7, 1.0)
]


@st.composite
def wanted(draw):
    budget = draw(st.sampled_from(BUDGETS))
    return budget, tuple(draw(st.integers(0, len(c.values) - 1)) for c in budget.space.choices)


@settings(max_examples=500, deadline=None)
@given(wanted())
def test_scaling_meets_the_budget_and_takes_the_largest_share(case):
    budget, point = case
    found = scale(budget, point)
    shares = [tuple(int(np.floor(part / PARTS * i + 0.5)) for i in point) for part in range(PARTS + 1)]
    expected = [share for share in shares if budget.meets(budget.space.plan(share))][-1]  # one by one, no bisection
    assert found == expected
    if budget.meets(budget.space.plan(point)):
        assert found == point


@settings(max_examples=300, deadline=None)
@given(wanted(), st.integers(0, 1000))
def test_spending_leaves_no_step_that_fits(case, seed):
    budget, point = case
    start = scale(budget, point)
    found = spend(budget, start, np.random.default_rng(seed))
    assert budget.meets(budget.space.plan(found))
    assert all(a >= b for a, b in zip(found, start, strict=True))
    for i, top in enumerate(budget.space.largest):
        raised = (*found[:i], found[i] + 1, *found[i + 1 :])
        assert found[i] == top or not budget.meets(budget.space.plan(raised))
