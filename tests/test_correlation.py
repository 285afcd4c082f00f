"""Rank correlation of two kinds of scores: against the pairs counted by hand, and on a finished search."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lightning_compress.core.errors import CompressError, TrialFailedError
from lightning_compress.search.correlation import Correlation, deviation_of_unrelated, pairs, rank_correlation, spread
from lightning_compress.search.journal import Journal, read
from lightning_compress.search.loop import search
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.random import Random
from lightning_compress.search.trial import Score
from lightning_compress.testing.problems import channels

OBJECTIVE = AccuracyUnderBudget(weight=0)
SYNTHETIC = channels(6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12))
def test_tau_is_that_of_the_pairs(pairs):
    low_fidelity, high_fidelity = zip(*pairs, strict=True)
    assume(len(set(low_fidelity)) > 1 and len(set(high_fidelity)) > 1)
    signs = [(np.sign(a[0] - b[0]), np.sign(a[1] - b[1])) for a, b in combinations(pairs, 2)]
    untied = [sum(sign[side] != 0 for sign in signs) for side in (0, 1)]
    expected = sum(a * b for a, b in signs) / np.sqrt(untied[0] * untied[1])
    assert rank_correlation(low_fidelity, high_fidelity) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("low_fidelity", "high_fidelity", "message"),
    [
        ([1.0], [1.0], "at least two plans, got 1 and 1"),
        ([1.0, 2.0], [1.0], "got 2 and 1"),
        ([1.0, 1.0], [1.0, 2.0], "all plans have the same reward"),
    ],
)
def test_what_cannot_be_ranked_is_an_error(low_fidelity, high_fidelity, message):
    with pytest.raises(CompressError, match=message):
        rank_correlation(low_fidelity, high_fidelity)


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


def test_fewer_networks_than_asked_are_all_taken(entries):
    assert {entry.key for entry in spread(entries, OBJECTIVE, 1000)} == {entry.key for entry in entries}
    assert spread([], OBJECTIVE, 8) == []
    failed = replace(entries[0], score=None, failure="why")
    assert spread([failed, entries[1]], OBJECTIVE, 8) == [entries[1]]


class Opposite:
    """Scores like the synthetic problem, with the sign turned; counts, and fails for some plans."""

    def __init__(self, failing=()):
        self.calls, self.failing = [], failing

    def key(self, plan):
        return SYNTHETIC.key(plan)

    def __call__(self, plan):
        self.calls.append(plan)
        if plan in self.failing:
            raise TrialFailedError("the loss is not finite")
        score = SYNTHETIC(plan)
        return Score({"val_acc": -score.metrics["val_acc"]}, score.costs)


def measured(entries, path, high_fidelity, plans=8):
    with Journal(path, {}) as journal:
        return Correlation(plans).score(entries, SYNTHETIC.problem.space, OBJECTIVE, high_fidelity, journal)


def test_a_search_against_itself_and_its_opposite(entries, tmp_path):
    for high_fidelity, tau in ((SYNTHETIC, 1), (Opposite(), -1)):
        path = tmp_path / f"{tau}.sqlite"
        numbers = measured(entries, path, high_fidelity)
        found = pairs(entries, read(path), OBJECTIVE)
        assert sorted(entry.number for entry in read(path)) == sorted(numbers)
        assert len(set(numbers)) == len(found) == 8
        assert all(again == tau * first for first, again in found)
        assert rank_correlation(*zip(*found, strict=True)) == pytest.approx(tau)


def test_what_was_scored_again_is_not_scored_another_time(entries, tmp_path):
    whole, parts = Opposite(), Opposite()
    assert measured(entries, tmp_path / "whole", whole) == measured(entries, tmp_path / "parts", parts)
    with sqlite3.connect(tmp_path / "parts") as db:  # as if killed before the last three
        db.execute("DELETE FROM trials WHERE number IN (SELECT number FROM trials ORDER BY rowid LIMIT 3)")
    parts.calls.clear()
    measured(entries, tmp_path / "parts", parts)
    assert len(whole.calls) == 8
    assert len(parts.calls) == 3
    first, second = ([replace(entry, seconds=0) for entry in read(tmp_path / name)] for name in ("whole", "parts"))
    assert first == second


def test_networks_of_another_search_are_scored_anew_under_their_numbers(entries, tmp_path):
    measured(entries, tmp_path / "j", Opposite())
    points = [entry.indices for entry in entries]
    other = [
        replace(a, indices=b.indices, key=b.key, score=b.score) for a, b in zip(entries, entries[::-1], strict=True)
    ]
    assert [entry.indices for entry in other] == points[::-1]
    assert pairs(other, read(tmp_path / "j"), OBJECTIVE) == []
    high_fidelity = Opposite()
    numbers = measured(other, tmp_path / "j", high_fidelity)
    assert len(high_fidelity.calls) == 8
    found = pairs(other, [entry for entry in read(tmp_path / "j") if entry.number in numbers], OBJECTIVE)
    assert len(found) == 8
    assert all(again == -first for first, again in found)


def test_a_plan_that_fails_is_left_out(entries, tmp_path):
    worst = spread(entries, OBJECTIVE, 8)[0]
    high_fidelity = Opposite([SYNTHETIC.problem.space.plan(worst.indices)])
    numbers = measured(entries, tmp_path / "j", high_fidelity)
    assert worst.number in numbers
    assert len(pairs(entries, read(tmp_path / "j"), OBJECTIVE)) == 7


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_deviation_is_that_over_all_orders(count):
    """All orders of ``count`` plans are equally likely when the two rewards are unrelated."""
    order = range(count)
    taus = [rank_correlation(order, other) for other in permutations(order)]
    assert np.mean(taus) == pytest.approx(0, abs=1e-12)
    assert deviation_of_unrelated(count) == pytest.approx(np.std(taus))


def test_one_plan_is_refused():
    with pytest.raises(CompressError, match="plans must be 2 or more, got 1"):
        Correlation(plans=1)


def test_the_option_reaches_every_stage_that_searches():
    with initialize_config_module("lightning_compress.conf", version_base="1.3"):
        config = compose(overrides=["+compress=n2n", "+compress/correlation=finetuned"])
        plain = compose(overrides=["+compress=n2n"])
    stages = instantiate(config.compress.stages, _convert_="object")
    assert all(isinstance(stage.planner.correlation, Correlation) for stage in stages.values())
    assert all(
        stage.planner.correlation is None for stage in instantiate(plain.compress.stages, _convert_="object").values()
    )
