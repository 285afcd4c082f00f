"""GeneCAI's score in log space against the logarithm of the formula."""

from __future__ import annotations

from math import exp, isclose, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_compress.core.errors import CompressError
from lightning_compress.search.objectives.genecai_score import GeneCAIScore
from lightning_compress.search.trial import Score

shares = st.floats(0, 1)


def score(accuracy: float, cost: float) -> Score:
    return Score({"val_acc": accuracy}, {"macs": cost}, {"val_acc": 0.9, "macs": 500})


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
    ours = GeneCAIScore(accuracy=1.0, dense_cost=100, threshold=0)
    assert ours(score(1.0, 99)) - ours(score(1.0, 100)) == pytest.approx(1.0)


def test_the_network_before_the_search_is_what_savings_and_losses_are_measured_from():
    ours = GeneCAIScore(threshold=0)
    for _ in range(2):  # in whatever order scores are heard
        assert ours(score(0.9, 250)) == pytest.approx(50)
        assert ours(score(0.9, 500)) == 0
        assert ours(score(0.8, 500)) == pytest.approx(-log(11))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"threshold": 90}, "threshold must be a share within 0 and 1, not percent; got 90"),
        ({"accuracy": 98.9}, "accuracy must be a share"),
        ({"dense_cost": 0}, "dense_cost must be above 0, or null, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(CompressError, match=words):
        GeneCAIScore(**settings)


def test_a_score_of_an_older_journal_needs_the_settings():
    old = Score({"val_acc": 0.8}, {"macs": 250.0}, {"macs": 500.0})
    with pytest.raises(
        CompressError, match=r"before the search the score has no 'val_acc'.*\['macs'\]. Give it as acc"
    ):
        GeneCAIScore()(old)
    assert GeneCAIScore(accuracy=0.8, threshold=0)(old) == pytest.approx(50)


def test_a_missing_cost_is_named():
    with pytest.raises(CompressError, match=r"no 'bytes'.*it has \['macs'\]"):
        GeneCAIScore(cost="bytes")(score(1.0, 1))
