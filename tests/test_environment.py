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
from lightning_compress.pipeline.evaluation import Evaluation
from lightning_compress.pipeline.planners.planner import Planner
from lightning_compress.pipeline.planners.search import Search
from lightning_compress.pipeline.planners.uniform import Uniform as UniformPlanner
from lightning_compress.pipeline.stage import Stage
from lightning_compress.search.journal import read
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.uniform import Uniform
from lightning_compress.testing.toys import PlainModule, ToyData


def search(**settings) -> Search:
    given = {"cost": MACs(), "budget": 0.5, "objective": AccuracyUnderBudget(), "searcher": Uniform, "trials": 1}
    return Search(**{**given, "evaluation": Evaluation(recalibration_batches=2), **settings})


def stage(planner: Planner | None = None, **settings) -> Stage:
    return Stage({"channels": lc.ChannelPruning()}, planner or search(), **settings)


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
    evaluation = Evaluation(finetune_steps=2, recalibration_batches=2)
    asked = stage(search(evaluation=evaluation), epochs=0, distillation=lc.KnowledgeDistillation)
    env = lc.plan_env(module, ToyData(), asked, seed=3)
    run = RunContext.begun(module, ToyData(), tmp_path, seed=3)
    asked.run("prune", module, run)
    (entry,) = read(tmp_path / "prune" / "trials.sqlite")
    assert env.evaluate(env.problem.space.plan(entry.indices)) == entry.score


@pytest.mark.parametrize("lacking", ["cost", "budget", "objective"])
def test_what_a_planner_lacks_is_named(module, lacking):
    with pytest.raises(CompressError, match=f"stage environment: {lacking} is null"):
        lc.plan_env(module, ToyData(), stage(search(**{lacking: None})))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Stage({}, search()), r"has callbacks \[\] and the planner Search"),
        (stage(UniformPlanner({"channels": 0.5})), r"has callbacks \['channels'\] and the planner Uniform"),
    ],
)
def test_a_stage_that_scores_nothing_is_refused(module, given, words):
    with pytest.raises(CompressError, match=words):
        lc.plan_env(module, ToyData(), given)


def test_a_budget_that_cannot_be_met_is_an_error(module):
    with pytest.raises(InfeasibleBudgetError, match="smallest feasible one"):
        lc.plan_env(module, ToyData(), stage(search(budget=1e-6)))
