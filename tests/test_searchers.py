"""The searchers' contract, collected from conf/, and what each of ours promises beyond it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

import lightning_compress.conf
from lightning_compress.core.errors import CompressError
from lightning_compress.core.least_error import least_error
from lightning_compress.search.budget_repair import spend
from lightning_compress.search.objectives.n2n_reward import N2NReward
from lightning_compress.search.objectives.objective import AccuracyLogCost, AccuracyUnderBudget
from lightning_compress.search.rl.replay import BaselineReplay
from lightning_compress.search.searchers.ddpg import DDPG, truncated_normal
from lightning_compress.search.searchers.genecai import GeneCAI
from lightning_compress.search.searchers.nsga2 import NSGA2
from lightning_compress.search.searchers.random import Random
from lightning_compress.search.searchers.reinforce import Reinforce
from lightning_compress.search.searchers.surrogate import Surrogate
from lightning_compress.search.searchers.uniform import Uniform
from lightning_compress.testing import problems
from lightning_compress.testing.searchers import SearcherContract, mean_accuracies, told

FILES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "searcher").glob("*.yaml"))
OBJECTIVE = AccuracyUnderBudget()


class TestContract(SearcherContract):
    @pytest.fixture(params=FILES, ids=lambda file: file.stem)
    def make(self, request):
        made = instantiate(OmegaConf.load(request.param))
        return lambda problem, seed: made(problem=problem, seed=seed, objective=OBJECTIVE)


@pytest.mark.parametrize("surface", [problems.channels, problems.bits])
def test_ddpg_beats_random_and_uniform_at_equal_evaluations(surface):
    makers = (DDPG, Random, Uniform)
    own, *others = mean_accuracies(makers, lambda seed: surface(layers=14, seed=seed), OBJECTIVE, seeds=3)
    assert own > max(others)


@pytest.mark.parametrize(("make", "statistic"), [(DDPG, max), (Reinforce, mean)])  # DDPG tries no plan twice
@pytest.mark.parametrize(
    "objective", [AccuracyUnderBudget(weight=0), AccuracyLogCost(cost="cost"), N2NReward(cost="cost")], ids=repr
)
def test_later_plans_are_better_than_earlier_ones_under_every_objective(make, statistic, objective):
    problem = problems.bits(layers=6, budget=0.9)
    points = told(make(problem.problem, 0, objective), problem, 60)
    rewards = [objective(problem(problem.problem.space.plan(point))) for point in points]
    assert statistic(rewards[-40:]) > statistic(rewards[1:20])


def test_ddpg_starts_at_the_uniform_policy():
    problem = problems.bits(layers=6)
    first = DDPG(problem.problem, 0, OBJECTIVE).ask()
    assert first.plan == Uniform(problem.problem, 0, OBJECTIVE).ask().plan


def test_ddpg_stores_the_actions_that_were_carried_out():
    problem = problems.bits(layers=6, budget=0.3)  # tight: what the actor wants must be cut, and the rest spent
    searcher = DDPG(problem.problem, 0, OBJECTIVE, warmup=30)
    for number in range(10):
        trial = searcher.ask()
        actions = searcher._open[number].actions
        units = [searcher.mapping.unit(i, float(a)) for i, a in enumerate(actions)]
        assert tuple(c.index(u) for c, u in zip(problem.problem.space.choices, units, strict=True)) == trial.indices
        searcher.tell(trial, problem(trial.plan))
        stored = (searcher.agent.replay_buffer.actions[6 * number : 6 * number + 6, 0, 0] + 1) / 2
        np.testing.assert_allclose(stored, actions, atol=1e-6)


def test_ddpg_spends_what_a_plan_leaves_and_tries_no_plan_twice():
    problem = problems.channels(layers=6)
    space, budget = problem.problem.space, problem.problem.budget
    points = told(DDPG(problem.problem, 0, OBJECTIVE), problem, 40)
    assert len(set(points)) == 40
    for point in points[1:]:  # the first is the uniform policy
        for i, top in enumerate(space.largest):
            raised = (*point[:i], point[i] + 1, *point[i + 1 :])
            assert point[i] == top or not budget.meets(space.plan(raised))


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")  # no gradient steps
def test_after_the_warm_up_the_actor_decides_few_choices_afresh(monkeypatch):
    problem, asked = problems.bits(layers=20, budget=1.0), []  # a budget that never binds changes nothing
    act = DDPG._act
    monkeypatch.setattr(DDPG, "_act", lambda *args: asked.append(args[-1]) or act(*args))
    told(DDPG(problem.problem, 0, OBJECTIVE, warmup=10, redecided=2.0, updates=0, imitation=0), problem, 40)
    assert all(asked.count(number) == 20 for number in range(1, 10))
    assert 1 <= mean(asked.count(number) for number in range(10, 40)) <= 8  # known plans are drawn again


def test_every_step_gets_the_final_reward_less_the_moving_average():
    problem = problems.bits(layers=4)
    searcher = DDPG(problem.problem, 0, OBJECTIVE, warmup=30, baseline=0.5)
    rewards, average = [], None
    for _ in range(4):
        trial = searcher.ask()
        searcher.tell(trial, problem(trial.plan))
        rewards.append(OBJECTIVE(problem(trial.plan)))
        average = rewards[-1] if average is None else 0.5 * average + 0.5 * rewards[-1]
    replay: BaselineReplay = searcher.agent.replay_buffer
    samples = replay._get_samples(np.arange(16))
    expected = (np.repeat(rewards, 4) - average) / np.std(rewards)
    np.testing.assert_allclose(samples.rewards[:, 0].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_exploration_decays_after_the_warm_up():
    searcher = DDPG(problems.bits(layers=2).problem, 0, OBJECTIVE, warmup=10, sigma=0.5, decay=0.9)
    assert searcher.width(10) == 0.5
    assert searcher.width(12) == pytest.approx(0.5 * 0.81)


def test_truncated_normal_against_rejection_sampling():
    torch.manual_seed(0)
    mean_, width = torch.tensor(0.9), 0.3
    ours = torch.tensor([truncated_normal(mean_, width) for _ in range(4000)])
    drawn = mean_ + width * torch.randn(20000)
    reference = drawn[(drawn >= 0) & (drawn <= 1)]
    assert ours.min() >= 0
    assert ours.max() <= 1
    assert abs(ours.mean() - reference.mean()) < 0.01
    assert abs(ours.std() - reference.std()) < 0.01


def test_uniform_is_the_largest_level_that_fits():
    problem = problems.bits(layers=6, budget=0.5)
    plan = Uniform(problem.problem, 0, OBJECTIVE).ask().plan
    assert set(plan.knob("weight_bits").values()) == {4}


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (DDPG, "elite"),
        (Reinforce, "elite"),
        (Reinforce, "anneal"),
        (Reinforce, "rollouts"),
    ],
)
def test_a_setting_without_which_nothing_is_learned_is_named(make, setting):
    with pytest.raises(CompressError, match=f"{make.__name__}: {setting} must be 1 or more, got 0"):
        make(problems.bits(layers=2).problem, 0, OBJECTIVE, **{setting: 0})


@pytest.mark.parametrize(
    ("make", "setting", "value", "told"),
    [
        (NSGA2, "population", 1, "2 or more, got 1"),
        (NSGA2, "crossover", 1.5, "at most 1, got 1.5"),
        (GeneCAI, "sigma", -1, "at least 0, got -1"),
        (GeneCAI, "p_tweak", math.nan, "at least 0, got nan"),
        (DDPG, "sigma", -0.1, "at least 0, got -0.1"),
        (DDPG, "hidden", "many", "a whole number, 1 or more, got 'many'"),
        (Surrogate, "spread", -1, "at least 0, got -1"),
        (Reinforce, "keep", 2, "at most 1, got 2"),
    ],
)
def test_a_setting_out_of_its_range_is_named(make, setting, value, told):
    with pytest.raises(CompressError, match=f"{make.__name__}: {setting} must be {told}"):
        make(problems.bits(layers=2).problem, 0, OBJECTIVE, **{setting: value})


def test_an_agent_that_diverges_is_named_with_the_remedy():
    problem = problems.channels()
    searcher = DDPG(problem.problem, 0, OBJECTIVE, learning_rate=1e30, warmup=2)
    with pytest.raises(CompressError, match=r"DDPG: its policy diverged .* lower its learning_rate or tau"):
        told(searcher, problem, 40)


@pytest.mark.parametrize("file", [f for f in FILES if f.stem not in ("random", "uniform")], ids=lambda f: f.stem)
def test_a_search_starts_at_the_prior(file):
    problem = problems.bits(layers=6)
    wanted = problem.problem.budget.project((0, 6, 0, 6, 0, 6))
    prior = spend(problem.problem.budget, wanted, np.random.default_rng(0))
    make = instantiate(OmegaConf.load(file))
    first = make(problem=replace(problem.problem, prior=prior), seed=0, objective=OBJECTIVE).ask()
    assert first.indices == prior


def test_a_search_from_a_good_prior_ends_above_one_without():
    gains = []
    for seed in range(3):
        problem = problems.channels(layers=8, seed=seed)
        space, budget = problem.problem.space, problem.problem.budget
        errors = [[s * (1 - v) ** 2 for v in c.values] for c, s in zip(space.choices, problem.sensitivity, strict=True)]
        informed = replace(problem.problem, prior=least_error(errors, budget))
        best = []
        for given in (informed, problem.problem):
            searcher = DDPG(given, 0, OBJECTIVE)
            best.append(max(problem(space.plan(point)).metrics["val_acc"] for point in told(searcher, problem, 12)))
        gains.append(best[0] - best[1])
    assert min(gains) > 0
