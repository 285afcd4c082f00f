"""REINFORCE: its likelihoods against brute force, its two policies, its file."""

from __future__ import annotations

from itertools import pairwise, product
from math import log
from statistics import mean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.core.budget import Budget
from lightning_compress.core.space import Choice, Space
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.problem import Problem
from lightning_compress.search.rl.features import COLUMNS, LIVE
from lightning_compress.search.rl.removal_policy import Removal
from lightning_compress.search.rl.shrinkage_policy import ACTIONS, Shrinkage
from lightning_compress.search.searchers.random import Random
from lightning_compress.search.searchers.reinforce import Reinforce
from lightning_compress.search.searchers.uniform import Uniform
from lightning_compress.testing import problems
from lightning_compress.testing.searchers import mean_accuracies

OBJECTIVE = AccuracyUnderBudget()


def mixed(budget: float = 0.5) -> Problem:
    """Two choices of two values and two of more, alternating."""
    dense = problems.bits(layers=4).problem.dense
    grids = [("keep", (0, 1)), ("weight_bits", (2, 4, 8)), ("keep", (0, 1)), ("weight_bits", (2, 4, 8))]
    space = Space(tuple(Choice(layer.name, *grid) for layer, grid in zip(dense, grids, strict=True)))

    def cost(plan):
        return sum(plan.knob("keep").values()) * 6 + sum(plan.knob("weight_bits").values())

    return Problem(Budget(cost, budget * 28, space), dense, lambda plan: dense)


def likelihoods(searcher: Reinforce, trials: int) -> dict[tuple[int, ...], float]:
    """Return the likelihood of each plan that comes up in some draws, as the gradient step will see it."""
    found = {}
    for _ in range(trials):
        trial = searcher.ask()
        with torch.no_grad():
            found[trial.indices] = float(searcher._likelihood([searcher._open[trial.number]])[0])
    return found


@pytest.mark.parametrize("budget", [0.45, 0.7, 1.0])
def test_the_likelihoods_of_all_plans_sum_to_one_also_where_the_budget_clips(budget):
    searcher = Reinforce(mixed(budget), 0, OBJECTIVE, width=1.0, keep=0.5)
    found = likelihoods(searcher, 400)
    points = product(*(range(len(choice.values)) for choice in searcher.problem.space.choices))
    feasible = [p for p in points if searcher.problem.budget.meets(searcher.problem.space.plan(p))]
    assert set(found) <= set(feasible)
    assert sum(torch.tensor(list(found.values())).exp()) == pytest.approx(1, abs=0.02)


def test_the_likelihood_is_how_often_a_plan_is_drawn():
    searcher = Reinforce(mixed(0.6), 0, OBJECTIVE, width=0.5, keep=0.5)
    searcher.ask()  # the likeliest, not drawn
    drawn = [searcher.ask() for _ in range(800)]
    plan = max({trial.indices for trial in drawn}, key=lambda point: sum(trial.indices == point for trial in drawn))
    share = mean(trial.indices == plan for trial in drawn)
    rollout = next(searcher._open[trial.number] for trial in drawn if trial.indices == plan)
    assert share == pytest.approx(float(searcher._likelihood([rollout])[0].detach().exp()), abs=0.05)


def test_a_loose_budget_starts_by_keeping_most():
    searcher = Reinforce(problems.removal(layers=14, budget=1.0).problem, 0, OBJECTIVE)
    kept = [mean(searcher.ask().indices) for _ in range(50)]
    assert 0.8 < mean(kept) < 0.9


def test_the_first_trial_is_the_uniform_plan():
    problem = problems.bits(layers=6).problem
    assert Reinforce(problem, 0, OBJECTIVE).ask().plan == Uniform(problem, 0, OBJECTIVE).ask().plan


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.floats(0.05, 0.95))
def test_removal_starts_at_p_keep_for_every_layer(layers, keep):
    log_probs = Removal()(torch.rand(layers, len(COLUMNS)), keep)
    expected = torch.tensor([log(1 - keep), log(keep)]).expand(layers, 2)
    torch.testing.assert_close(log_probs, expected, atol=1e-6, rtol=0)


def test_removal_reads_all_layers_and_no_live_column():
    policy, static = Removal(), torch.rand(5, len(COLUMNS))
    torch.nn.init.normal_(policy.head.weight)
    before = policy(static, 0.5)
    static[:, -LIVE:] = 0
    torch.testing.assert_close(policy(static, 0.5), before)
    static[-1] = 0
    assert not torch.allclose(policy(static, 0.5)[0], before[0])


def test_shrinkage_step_by_step_is_shrinkage_at_once():
    policy, observations = Shrinkage(), torch.rand(1, 6, len(COLUMNS))
    torch.nn.init.normal_(policy.head.weight)
    state, steps = None, []
    for i in range(6):
        log_probs, state = policy(observations[:, i : i + 1], state)
        steps.append(log_probs)
    torch.testing.assert_close(torch.cat(steps, 1), policy(observations)[0])
    assert policy(observations)[0].exp().sum(-1).allclose(torch.ones(1, 6))
    assert Shrinkage()(observations)[0].argmax(-1).eq(ACTIONS // 2).all()


def test_an_update_makes_the_better_plans_likelier():
    problem = problems.bits(layers=4)
    searcher = Reinforce(problem.problem, 0, OBJECTIVE, rollouts=8, imitation=0, entropy=0)
    trials = [searcher.ask() for _ in range(8)]
    rollouts = [searcher._open[trial.number] for trial in trials]
    rewards = torch.tensor([OBJECTIVE(problem(trial.plan)) for trial in trials])
    before = searcher._likelihood(rollouts)[0].detach()
    for trial in trials:
        searcher.tell(trial, problem(trial.plan))
    gain = searcher._likelihood(rollouts)[0].detach() - before
    assert ((rewards - rewards.mean()) * gain).sum() > 0


def test_an_update_comes_when_a_batch_was_told():
    problem = problems.bits(layers=3)
    searcher = Reinforce(problem.problem, 0, OBJECTIVE, rollouts=4)
    trials = [searcher.ask() for _ in range(9)]
    weights = [searcher.shrinkage.head.weight.detach().clone()]
    for trial in trials:
        searcher.tell(trial, problem(trial.plan))
        weights.append(searcher.shrinkage.head.weight.detach().clone())
    changed = [not torch.equal(a, b) for a, b in pairwise(weights)]
    assert [i for i, moved in enumerate(changed, start=1) if moved] == [4, 8]


@pytest.mark.parametrize("budget", [0.5, 0.7])
def test_removal_beats_random_at_equal_evaluations(budget):
    def surface(seed):
        return problems.removal(layers=14, budget=budget, seed=seed)

    own, random = mean_accuracies((Reinforce, Random), surface, OBJECTIVE, seeds=5)
    assert own > random


@pytest.mark.parametrize("surface", [problems.channels, problems.bits])
def test_beats_random_and_uniform_at_equal_evaluations(surface):
    makers = (Reinforce, Random, Uniform)
    own, *others = mean_accuracies(makers, lambda seed: surface(layers=14, seed=seed), OBJECTIVE, seeds=5)
    assert own > max(others)


def test_mixed_spaces_are_searched_by_both_policies():
    searcher = Reinforce(mixed(), 0, OBJECTIVE)
    weights = [p.detach().clone() for p in searcher._policies.parameters()]
    for _ in range(10):
        trial = searcher.ask()
        searcher.tell(trial, problems.Score({"val_acc": sum(trial.indices) / 8, "val_loss": 0.0}, {}))
    moved = [not torch.equal(a, b) for a, b in zip(weights, searcher._policies.parameters(), strict=True)]
    names = [name for name, _ in searcher._policies.named_parameters()]
    assert {name.split(".")[0] for name, m in zip(names, moved, strict=True) if m} == {"removal", "shrinkage"}
