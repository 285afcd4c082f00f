"""A stage's search as a gymnasium environment: what ``Stage`` searches, for any reinforcement-learning library."""

from __future__ import annotations

from pathlib import Path

from lightning import LightningDataModule, LightningModule

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.errors import CompressError
from lightning_compress.pipeline.context import RunContext, set_attributes
from lightning_compress.pipeline.planners.scoring import ScoringPlanner
from lightning_compress.pipeline.stage import Stage
from lightning_compress.pipeline.student import Student
from lightning_compress.search.environment import PlanEnv
from lightning_compress.search.problem import Problem
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.structure import network


def plan_env(
    module: LightningModule, data: LightningDataModule, stage: Stage, seed: int = 0, failed: float = -1.0
) -> PlanEnv:
    """Return the search of a stage as an environment, where your agent takes the place of its searcher.

    Candidates are the ones that the stage would score, in the same way. The planner's ``searcher``, ``trials``,
    ``executor`` and what else belongs to the search itself are not looked at. Apply ``env.best.plan`` with
    ``lc.compress(..., plan=)``.

    Args:
        module: trained; it is not changed.
        data: with train and validation loaders.
        stage: its callbacks and the cost, budget and objective of its planner make the problem.
        seed: of the scores.
        failed: reward of a plan that cannot be scored.

    Raises:
        CompressError: the stage has no callbacks, or a planner that scores nothing; or the budget cannot be met.
    """
    planner = stage.planner
    if not stage.callbacks or not isinstance(planner, ScoringPlanner):
        raise CompressError(
            f"environment: the stage has callbacks {sorted(stage.callbacks)} and the planner {type(planner).__name__}; "
            f"give it callbacks and a planner that scores candidates, such as Search"
        )
    run = RunContext.begun(module, data, Path(), seed=seed)
    student = Student(clone(module), stage.distillation, stage.given_attributes)
    set_attributes(student.module, stage.given_attributes, "environment")
    composition = Composition(list(stage.callbacks.values()), network(module), run.example)
    budget = planner.budget_for(composition, run, "environment")
    evaluator = planner.evaluator(composition, student, run)
    problem = Problem(budget, composition.profile, composition.predict)
    return PlanEnv(problem, evaluator, planner.objective, failed)
