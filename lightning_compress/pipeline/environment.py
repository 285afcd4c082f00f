"""A stage's search as a gymnasium environment: what ``Stage`` searches, for any reinforcement-learning library."""

from __future__ import annotations

import copy
from pathlib import Path

from lightning import LightningDataModule, LightningModule

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.errors import CompressError
from lightning_compress.pipeline.context import RunContext, set_attributes
from lightning_compress.pipeline.stage import Stage
from lightning_compress.search.environment import PlanEnv
from lightning_compress.search.problem import Problem
from lightning_compress.surgery.structure import network


def plan_env(
    module: LightningModule, data: LightningDataModule, stage: Stage, seed: int = 0, failed: float = -1.0
) -> PlanEnv:
    """The search of a stage, where your agent takes the place of its searcher.

    Candidates are the ones that the stage would score, in the same way. Its ``searcher``, ``trials``, ``executor`` and
    what else belongs to the search itself are not looked at. Apply ``env.best.plan`` with ``lc.compress(..., plan=)``.

    Args:
        module: trained; it is not changed.
        data: with train and validation loaders.
        stage: its callbacks, cost, budget and objective make the problem.
        seed: of the scores.
        failed: reward of a plan that cannot be scored.

    Raises:
        CompressError: the stage lacks one of these four, or the budget cannot be met.
    """
    missing = [name for name in ("callbacks", "cost", "budget", "objective") if not getattr(stage, name)]
    if missing:
        raise CompressError(
            f"environment: the stage has no {', no '.join(missing)}; give Stage a value for each of them"
        )
    run = RunContext.begun(module, data, Path(), seed=seed)
    student = copy.deepcopy(module)
    set_attributes(student, stage.attributes, "environment")
    composition = Composition(list(stage.callbacks.values()), network(module), run.example)
    search = stage.searched(composition, student, run, run.folder)
    problem = Problem(search.budget, composition.profile, composition.predict)
    return PlanEnv(problem, search.evaluator, stage.objective, failed)
