"""Objectives: AMC's two rewards and N2N's, against their formulas and printed values."""

from __future__ import annotations

from math import isclose, log
from pathlib import Path

import pytest
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import lightning_compress.conf
from lightning_compress.core.costs.weight_bits import WeightBits
from lightning_compress.core.errors import CompressError
from lightning_compress.search.objectives.genecai_score import GeneCAIScore
from lightning_compress.search.objectives.n2n_reward import N2NReward
from lightning_compress.search.objectives.objective import (
    AccuracyLogCost,
    AccuracyUnderBudget,
    LossUnderBudget,
    Objective,
)
from lightning_compress.search.trial import Score

FILES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "objective").glob("*.yaml"))
shares = st.floats(0, 1)
losses = st.floats(0, 100)
costs = st.floats(10, 1e12)


def score(accuracy: float, loss: float = 0.5, cost: float = 1e6) -> Score:
    return Score(
        {"val_acc": accuracy, "val_loss": loss},
        {"macs": cost, "parameters": cost},
        {"macs": 4e12, "parameters": 4e12, "val_acc": 0.9},
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_makes_an_objective_that_prefers_accuracy(file):
    objective = instantiate(OmegaConf.load(file))
    assert isinstance(objective, Objective)
    assert objective(score(0.9, loss=0.4)) > objective(score(0.8, loss=0.5))


@given(losses)
def test_without_an_accuracy_the_smaller_loss_is_better(loss):
    assert LossUnderBudget("val_mse")(Score({"val_mse": loss}, {})) == -loss


@given(shares, losses)
def test_under_a_budget_the_reward_is_the_accuracy_less_a_share_of_the_loss(accuracy, loss):
    assert isclose(AccuracyUnderBudget(weight=0.1)(score(accuracy, loss)), accuracy - loss / 10, abs_tol=1e-12)
    assert AccuracyUnderBudget(weight=0)(score(accuracy, loss)) == accuracy


def test_without_a_weight_no_loss_is_needed():
    assert AccuracyUnderBudget(weight=0)(Score({"val_acc": 0.5}, {})) == 0.5


@given(shares, costs)
def test_the_log_cost_is_weighed_by_the_errors(accuracy, cost):
    assert isclose(AccuracyLogCost()(score(accuracy, cost=cost)), (accuracy - 1) * log(cost), abs_tol=1e-12)


@given(shares, costs, st.floats(1, 10))
def test_a_dearer_network_is_never_better(accuracy, cost, factor):
    assert AccuracyLogCost()(score(accuracy, cost=cost * factor)) <= AccuracyLogCost()(score(accuracy, cost=cost))


def test_a_network_that_costs_nothing_has_a_reward():
    assert AccuracyLogCost()(score(0.5, cost=0)) == 0


@pytest.mark.parametrize(
    "objective",
    [
        AccuracyUnderBudget(metric="val_ac"),
        AccuracyUnderBudget(loss="val_los"),
        AccuracyLogCost(cost="mac"),
        N2NReward(metric="val_ac"),
        N2NReward(cost="parameter"),
        N2NReward(cost="mac", cost0=1.0),
    ],
)
def test_a_missing_value_is_named(objective):
    with pytest.raises(CompressError, match=r"the score has no .*did you mean"):
        objective(score(0.5))


@pytest.mark.parametrize(("times", "share"), [(2, 0.75), (5, 0.96), (10, 0.99), (20, 0.9975)])
def test_n2n_multiplies_accuracy_and_compression(times, share):
    assert isclose(N2NReward(acc0=0.7)(score(0.8, cost=4e12 / times)), share * 0.8 / 0.7)
    assert isclose(N2NReward(cost0=60)(score(0.8, cost=60 / times)), share * 0.8 / 0.9)


@pytest.mark.parametrize("cost", [4e12, 5e12])
def test_n2n_gives_a_network_no_smaller_than_before_minus_one(cost):
    assert N2NReward()(score(1.0, cost=cost)) == -1


@pytest.mark.parametrize(
    ("number", "weight"), [(0, 1.0), (15, 0.4096), (25, 0.1975), (50, 0.0123), (75, 0.0), (90, 0.0)]
)
@pytest.mark.parametrize("limited", [N2NReward(least_accuracy=0.85), N2NReward(most_cost=1e12)])
def test_n2n_enforces_its_limits_little_by_little(limited, number, weight):
    outside = score(0.8, cost=2e12)
    free = N2NReward()(outside)
    assert isclose(limited.during(outside, number), (weight - 1) + weight * free, abs_tol=1e-4)
    assert limited(outside) == -1


@given(shares, st.integers(0, 200))
def test_within_its_limits_n2n_is_the_same_at_every_trial(accuracy, number):
    limited = N2NReward(least_accuracy=0.0, most_cost=1e12)
    assert limited.during(score(accuracy), number) == limited(score(accuracy)) == N2NReward()(score(accuracy))


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ({}, "has no 'parameters'.* Give it as cost0"),
        ({"parameters": 9.0}, "has no 'val_acc'.* Give it as acc0"),
        ({"parameters": 9.0, "val_acc": 0.0}, "'val_acc' of the network before the search is 0.0; give acc0"),
    ],
)
def test_n2n_needs_what_was_before_from_somewhere(before, words):
    bare = Score({"val_acc": 0.5}, {"parameters": 3.0}, before)
    with pytest.raises(CompressError, match=words):
        N2NReward()(bare)
    assert N2NReward(acc0=0.5, cost0=9.0)(bare) == pytest.approx(8 / 9)


@pytest.mark.parametrize("settings", [{"acc0": 0.0}, {"cost0": -1.0}, {"anneal": -1}])
def test_n2n_refuses_settings_out_of_range(settings):
    with pytest.raises(CompressError, match=f"N2NReward: {next(iter(settings))} must be"):
        N2NReward(**settings)


def test_scores_are_plain_data_there_and_back():
    assert Score.from_dict(score(0.5).to_dict()) == score(0.5)


def test_each_says_in_words_what_the_reward_is():
    meanings = {
        AccuracyUnderBudget(): "the validation accuracy, less 0.1 times the validation loss",
        AccuracyUnderBudget(weight=0): "the validation accuracy",
        LossUnderBudget(): "the validation loss, negated so that more is better",
        AccuracyLogCost(cost=WeightBits()): "the share of errors in validation times the logarithm of weight bits, "
        "negated",
    }
    assert {objective: objective.meaning for objective in meanings} == meanings
    for objective in (GeneCAIScore(), N2NReward()):
        assert "saved share of" in objective.meaning
