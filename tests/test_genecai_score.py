"""GeneCAI's score in log space against the logarithm of the formula."""

from __future__ import annotations

from math import exp, isclose, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_compress.errors import CompressError
from lightning_compress.search.genecai_score import GeneCAIScore
from lightning_compress.search.trial import Score

shares = st.floats(0, 1)


def score(accuracy: float, cost: float) -> Score:
    return Score({"val_acc": accuracy}, {"macs": cost})


@given(st.floats(0, 0.9), st.floats(0, 1e6), st.floats(0, 0.9), st.floats(0.1, 5.0))
def test_it_is_the_logarithm_of_the_papers_score(accuracy, cost, threshold, coeff):
    ours = GeneCAIScore(accuracy=0.9, threshold=threshold, coeff=coeff, dense_cost=1e6)
    err = abs(90 - 100 * accuracy) + 1  # in percent, as published
    if 100 * accuracy < 100 * threshold:
        err += exp(100 * threshold - 100 * accuracy)
    assert isclose(ours(score(accuracy, cost)), log(exp(coeff * (1e6 - cost) / 1e6) / err), rel_tol=1e-9, abs_tol=1e-9)


@given(shares, shares, st.floats(0, 2e6))
def test_more_accuracy_is_never_worse_and_more_cost_is_never_better(one, other, cost):
    ours = GeneCAIScore(accuracy=0.8, threshold=0.7, dense_cost=1e6)
    low, high = sorted((one, other))
    assert ours(score(high, cost)) >= ours(score(low, cost))
    assert ours(score(one, cost + 1e5)) < ours(score(one, cost))


def test_a_point_of_saving_is_worth_a_factor_e():
    ours = GeneCAIScore(dense_cost=100, threshold=0)
    assert ours(score(1.0, 99)) - ours(score(1.0, 100)) == pytest.approx(1.0)


def test_the_first_score_is_the_dense_one_when_none_is_given():
    ours = GeneCAIScore(threshold=0)
    assert ours(score(1.0, 500)) == 0
    assert ours(score(1.0, 250)) == pytest.approx(50)
    assert ours(score(1.0, 500)) == 0


def test_a_missing_cost_is_named():
    with pytest.raises(CompressError, match=r"no 'bytes'.*it has \['macs'\]"):
        GeneCAIScore(cost="bytes")(score(1.0, 1))
