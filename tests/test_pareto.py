"""The Pareto front against its definition, pair by pair, and against pymoo's sorting."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from lightning_compress.search.pareto import pareto_front

numbers = st.one_of(st.integers(0, 5).map(float), st.floats(-1e6, 1e6))
points = st.lists(st.tuples(numbers, numbers), max_size=30)


@given(points)
def test_the_front_is_what_no_other_point_beats(points):
    def beaten(cost: float, score: float) -> bool:
        return any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points)

    front = pareto_front(points)
    assert sorted(front) == [i for i, point in enumerate(points) if not beaten(*point)]
    assert [points[i] for i in front] == sorted(points[i] for i in front)


@given(points.filter(bool))
def test_pymoo_agrees(points):
    objectives = np.array([(cost, -score) for cost, score in points])
    assert sorted(pareto_front(points)) == sorted(NonDominatedSorting().do(objectives, only_non_dominated_front=True))
