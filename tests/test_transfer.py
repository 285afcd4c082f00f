"""A policy learned on a small network is worth more than none on a larger one of its family."""

from __future__ import annotations

from functools import partial
from statistics import mean

import pytest

from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.ddpg import DDPG
from lightning_compress.search.searchers.reinforce import Reinforce
from lightning_compress.testing import problems
from lightning_compress.testing.searchers import told

OBJECTIVE, FAMILY = AccuracyUnderBudget(), partial(problems.channels, family=0)


def best(searcher, problem, trials: int) -> float:
    plans = [problem.problem.space.plan(point) for point in told(searcher, problem, trials)]
    return max(problem(plan).metrics["val_acc"] for plan in plans)


@pytest.mark.parametrize("make", [DDPG, Reinforce])
def test_warm_beats_cold_at_40_evaluations_on_22_layers(make, tmp_path):
    problem = FAMILY(layers=14, seed=100)
    source = make(problem.problem, 100, OBJECTIVE)
    told(source, problem, 100)
    source.save(tmp_path)
    cold, warm = [], []
    for seed in range(3):
        target = FAMILY(layers=22, seed=seed)
        cold.append(best(make(target.problem, seed, OBJECTIVE), target, 40))
        warm.append(best(make(target.problem, seed, OBJECTIVE, warm_start=tmp_path), target, 40))
    assert mean(warm) > mean(cold)
