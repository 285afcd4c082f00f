"""Rank correlation of cheap with dear scores: against the pairs counted by hand, and on a finished search."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lightning_compress.errors import CompressError
from lightning_compress.search.correlation import of_search, rank_correlation, spread
from lightning_compress.search.journal import Journal, read
from lightning_compress.search.loop import search
from lightning_compress.search.objective import AccuracyUnderBudget
from lightning_compress.search.random import Random
from lightning_compress.search.trial import Score
from lightning_compress.testing.problems import channels

OBJECTIVE = AccuracyUnderBudget(weight=0)
SYNTHETIC = channels(6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12))
def test_tau_is_that_of_the_pairs(pairs):
    cheap, dear = zip(*pairs, strict=True)
    assume(len(set(cheap)) > 1 and len(set(dear)) > 1)
    signs = [(np.sign(a[0] - b[0]), np.sign(a[1] - b[1])) for a, b in combinations(pairs, 2)]
    untied = [sum(sign[side] != 0 for sign in signs) for side in (0, 1)]
    expected = sum(a * b for a, b in signs) / np.sqrt(untied[0] * untied[1])
    assert rank_correlation(cheap, dear) == pytest.approx(expected)


@pytest.mark.parametrize(("cheap", "dear", "message"), [
    ([1.0], [1.0], "at least two plans, got 1 and 1"),
    ([1.0, 2.0], [1.0], "got 2 and 1"),
    ([1.0, 1.0], [1.0, 2.0], "all plans have the same reward"),
])  # fmt: skip
def test_what_cannot_be_ranked_is_an_error(cheap, dear, message):
    with pytest.raises(CompressError, match=message):
        rank_correlation(cheap, dear)


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    path = tmp_path_factory.mktemp("search") / "trials.sqlite"
    with Journal(path, {}) as journal:
        search(Random(SYNTHETIC.problem, 0, OBJECTIVE), SYNTHETIC, journal, 40)
    return read(path)


def test_plans_are_spread_from_the_worst_to_the_best(entries):
    rewards = [OBJECTIVE(entry.score) for entry in entries]
    chosen = [OBJECTIVE(entry.score) for entry in spread(entries, OBJECTIVE, 7)]
    assert (chosen[0], chosen[-1]) == (min(rewards), max(rewards))
    assert chosen == sorted(chosen)
    assert len({entry.key for entry in spread(entries, OBJECTIVE, 7)}) == 7


def test_too_many_plans_are_refused(entries):
    with pytest.raises(CompressError, match="cannot take 41 plans"):
        spread(entries, OBJECTIVE, 41)


def test_a_search_against_itself_and_its_opposite(entries):
    class Opposite:
        def key(self, plan):
            return SYNTHETIC.key(plan)

        def __call__(self, plan):
            score = SYNTHETIC(plan)
            return Score({"val_acc": -score.metrics["val_acc"]}, score.costs)

    tau, pairs = of_search(entries, SYNTHETIC.problem.space, OBJECTIVE, SYNTHETIC, 8)
    assert tau == pytest.approx(1)
    assert len(pairs) == 8
    assert all(cheap == dear == OBJECTIVE(SYNTHETIC(plan)) for plan, (cheap, dear) in pairs.items())
    assert of_search(entries, SYNTHETIC.problem.space, OBJECTIVE, Opposite(), 8)[0] == pytest.approx(-1)
