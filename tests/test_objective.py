"""Objectives: AMC's two rewards, against their formulas."""

from __future__ import annotations

from math import isclose, log
from pathlib import Path

import pytest
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import lightning_compress.conf
from lightning_compress.errors import CompressError
from lightning_compress.search.objective import AccuracyLogCost, AccuracyUnderBudget, Objective
from lightning_compress.search.trial import Score

FILES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "objective").glob("*.yaml"))
shares = st.floats(0, 1)
losses = st.floats(0, 100)
costs = st.floats(10, 1e12)


def score(accuracy: float, loss: float = 0.5, cost: float = 1e6) -> Score:
    return Score({"val_acc": accuracy, "val_loss": loss}, {"macs": cost})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_makes_an_objective_that_prefers_accuracy(file):
    objective = instantiate(OmegaConf.load(file))
    assert isinstance(objective, Objective)
    assert objective(score(0.9)) > objective(score(0.8))


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
    [AccuracyUnderBudget(metric="val_ac"), AccuracyUnderBudget(loss="val_los"), AccuracyLogCost(cost="mac")],
)
def test_a_missing_value_is_named(objective):
    with pytest.raises(CompressError, match=r"the score has no .*did you mean"):
        objective(score(0.5))


def test_scores_are_plain_data_there_and_back():
    assert Score.from_dict(score(0.5).to_dict()) == score(0.5)
