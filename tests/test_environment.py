"""The environment of a stage: real candidates, scored as the stage would, under an agent that is not ours."""

from __future__ import annotations

import gymnasium.utils.env_checker
import pytest
import stable_baselines3.common.env_checker
import torch
from stable_baselines3 import A2C

import lightning_compress as lc
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.errors import CompressError, InfeasibleBudgetError
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.stage import Stage
from lightning_compress.search.journal import read
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.uniform import Uniform
from lightning_compress.testing.toys import PlainModule, ToyData


def stage(**settings) -> Stage:
    given = {"callbacks": {"channels": lc.ChannelPruning()}, "cost": MACs(), "budget": 0.5}
    return Stage(**{**given, "objective": AccuracyUnderBudget(), "recalibration_batches": 2, **settings})


@pytest.fixture
def module() -> PlainModule:
    torch.manual_seed(0)
    return PlainModule()


def test_an_agent_trains_on_real_candidates_and_leaves_the_module_alone(module):
    before = {key: value.clone() for key, value in module.state_dict().items()}
    env = lc.plan_env(module, ToyData(), stage())
    stable_baselines3.common.env_checker.check_env(env)
    gymnasium.utils.env_checker.check_env(env, skip_render_check=True)
    A2C("MlpPolicy", env, n_steps=4, seed=0, device="cpu").learn(8)
    assert env.problem.budget.meets(env.best.plan)
    assert env.best.reward == AccuracyUnderBudget()(env.best.score)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_plans_are_scored_as_the_stage_scores_them(module, tmp_path):
    settings = {"searcher": Uniform, "trials": 1, "epochs": 0, "distillation": lc.KnowledgeDistillation}
    asked = stage(finetune_steps=2, **settings)
    env = lc.plan_env(module, ToyData(), asked, seed=3)
    run = RunContext.begun(module, ToyData(), tmp_path, seed=3)
    asked.run("prune", module, run)
    (entry,) = read(tmp_path / "prune" / "trials.sqlite")
    assert env.evaluate(env.problem.space.plan(entry.indices)) == entry.score


@pytest.mark.parametrize("lacking", [{"callbacks": {}}, {"cost": None}, {"budget": None}, {"objective": None}])
def test_what_a_stage_lacks_is_named(module, lacking):
    with pytest.raises(CompressError, match=f"the stage has no {next(iter(lacking))};"):
        lc.plan_env(module, ToyData(), stage(**lacking))


def test_a_budget_that_cannot_be_met_is_an_error(module):
    with pytest.raises(InfeasibleBudgetError, match="smallest feasible one"):
        lc.plan_env(module, ToyData(), stage(budget=1e-6))
