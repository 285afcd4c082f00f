"""An episode over the choices: what an action means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightning_compress.core.budget import Budget
from lightning_compress.core.space import Choice, Space
from lightning_compress.search.rl.episode import ActionMapping
from lightning_compress.testing import problems

PROBLEM = problems.channels(layers=3).problem


@pytest.mark.parametrize("share", [1.0, 0.5, 0.02])
@pytest.mark.parametrize("count", [2, 8, 19, 20, 21, 64])
def test_the_middle_action_is_the_uniform_plan_on_a_grid_of_any_size(count, share):
    values = tuple((i + 1) / count for i in range(count))
    space = Space(tuple(Choice(choice.layer, choice.knob, values) for choice in PROBLEM.space.choices))
    least, most = (PROBLEM.budget.cost(space.plan(point)) for point in (space.smallest, space.largest))
    budget = Budget(PROBLEM.budget.cost, max(least, share * most), space)
    mapping = ActionMapping(replace(PROBLEM, budget=budget))
    assert tuple(c.index(mapping.unit(i, 0.5)) for i, c in enumerate(space.choices)) == budget.at_level(budget.level())
    assert all(0 < level < 1 for level in mapping.levels)


@pytest.mark.parametrize("index", [0, 9])
def test_each_action_has_an_inverse_even_where_the_uniform_plan_is_at_an_end(index):
    limit = PROBLEM.budget.cost(PROBLEM.space.plan((index,) * 3))
    mapping = ActionMapping(replace(PROBLEM, budget=replace(PROBLEM.budget, limit=limit)))
    for action in (0.0, 0.25, 0.5, 0.75, 1.0):
        assert mapping.action(1, mapping.unit(1, action)) == pytest.approx(action)


def test_the_middle_action_is_the_prior_where_there_is_one():
    prior = tuple(range(3))
    mapping = ActionMapping(replace(PROBLEM, prior=prior))
    assert tuple(c.index(mapping.unit(i, 0.5)) for i, c in enumerate(PROBLEM.space.choices)) == prior
    for i in range(3):
        for action in (0.0, 0.25, 0.5, 0.75, 1.0):
            assert mapping.action(i, mapping.unit(i, action)) == pytest.approx(action)
