"""The search of a stage: its searcher and the baselines beside it, what is scored again, and the Pareto front.

Everything is written into the stage's folder as it is found, so that a killed search goes on: the journals, the learned
policy, ``front/TRIAL.yaml`` for each plan of the Pareto front, and ``search.json``, from which the report is made.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning import LightningModule
from lightning.pytorch.loggers import Logger

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.atomic_write import atomic_write
from lightning_compress.core.budget import Budget
from lightning_compress.core.errors import AllTrialsFailedError
from lightning_compress.core.plan import Plan
from lightning_compress.core.settings import settings_of
from lightning_compress.pipeline.context import FOUND, RunContext
from lightning_compress.pipeline.evaluator import Evaluator
from lightning_compress.pipeline.needed_costs import needed_costs
from lightning_compress.search.correlation import CORRELATION
from lightning_compress.search.journal import Entry, Journal, journal_name
from lightning_compress.search.loop import Best, search
from lightning_compress.search.pareto import pareto_front
from lightning_compress.search.problem import Problem
from lightning_compress.search.rl.policy_file import NAME, of_stage
from lightning_compress.search.searchers.searcher import Searcher

if TYPE_CHECKING:
    from lightning_compress.pipeline.stage import Stage

FRONT = "front"  # folder of the plans of the Pareto front


class PlanSearch:
    """A search under a budget.

    Args:
        stage: its settings.
        composition: the callbacks that candidates get.
        budget: over the composition's space.
        student: prepared for the callbacks; candidates are deepcopies of it.
        run: what the stages share.
        folder: of the stage.
    """

    def __init__(
        self,
        stage: Stage,
        composition: Composition,
        budget: Budget,
        student: LightningModule,
        run: RunContext,
        folder: Path,
    ) -> None:
        self.stage, self.composition, self.budget, self.run, self.folder = stage, composition, budget, run, folder
        self.evaluator = Evaluator(
            partial(copy.deepcopy, student), composition, *run.loaders(),
            stage.monitor, stage.finetune_steps, stage.recalibration_batches, run.teaching(stage.distillation),
            run.seed, device=run.scoring_device, validation_batches=stage.validation_batches,
            costs=needed_costs(stage.cost, stage.objective),
        )  # fmt: skip
        correlation = stage.correlation
        self.dear = None if correlation is None else self.evaluator.finetuned(correlation.finetune_steps)
        self.settings = {
            "objective": settings_of(stage.objective), "limit": budget.limit, "seed": run.seed,
            "in_flight": stage.in_flight, "halving": settings_of(stage.halving), "cost": settings_of(stage.cost),
            **self._scoring(self.evaluator),
            "space": [[c.layer, c.knob, list(c.values)] for c in budget.space.choices],
        }  # fmt: skip

    def plan(self) -> Plan:
        """Search, or go on with a search that was killed; the plan of the highest reward.

        Raises:
            NoEffectError: halving with so few in flight that every plan would be scored in full.
        """
        stage = self.stage
        logger = self.run.make_logger(save_dir=self.folder / "search")
        searcher, best, entries = self._search("", stage.searcher, [], [logger])
        rewards = {"this search": best.reward}
        searcher.save(self.folder)
        self._write_front(entries)
        scored = list(entries)
        for name, make in (stage.baselines or {}).items():
            try:
                _, other, more = self._search(name, make, scored, [])
            except AllTrialsFailedError:  # the report says so
                continue
            scored += more
            rewards[name] = other.reward
        self._write(entries, rewards)
        return best.plan

    def _search(
        self, name: str, make: Callable[..., Searcher], known: Sequence[Entry], loggers: Sequence[Logger]
    ) -> tuple[Searcher, Best, list[Entry]]:
        """One searcher, with a journal of that name; what is known already is not scored again."""
        stage, problem = self.stage, Problem(self.budget, self.composition.profile, self.composition.predict)
        executor = stage.executor
        if stage.halving is not None:
            executor = stage.halving.over(executor, stage.objective, stage.in_flight)
        with Journal(self.folder / journal_name(name), self._searching(make)) as journal:
            kept = self.folder / start_name(name)
            start = start_of(make, kept)
            searcher = make(problem=problem, seed=self.run.seed, objective=stage.objective, **start)
            keep_start(start, kept)
            best = search(searcher, self.evaluator, journal, stage.trials, loggers, executor, stage.in_flight, known)
            return searcher, best, [entry for entry in journal if entry.number < stage.trials]

    def _write_front(self, entries: Sequence[Entry]) -> None:
        """A plan file for each point of the Pareto front of cost and reward."""
        folder = self.folder / FRONT
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        networks = list({entry.key: entry for entry in reversed(entries) if entry.score is not None}.values())
        plans = [self.budget.space.plan(entry.indices) for entry in networks]
        points = [
            (self.budget.cost(plan), self.stage.objective(entry.score))
            for plan, entry in zip(plans, networks, strict=True)
        ]
        for i in pareto_front(points):
            self.composition.resolve(plans[i]).save(folder / f"{networks[i].number:05d}.yaml")

    def _write(self, entries: Sequence[Entry], rewards: Mapping[str, float]) -> None:
        """What the report needs beside the journals, and the scores after fine-tuning when they are asked for.

        Args:
            entries: of the search.
            rewards: the best of each.
        """
        stage = self.stage
        written = {
            **self._searching(stage.searcher), "baselines": list(stage.baselines or {}), "trials": stage.trials
        }  # fmt: skip
        written["found"] = {
            "searcher": partial(stage.searcher).func.__name__, "objective": type(stage.objective).__name__,
            "best": dict(rewards), "trials": len(entries), "failed": sum(entry.score is None for entry in entries),
        }  # fmt: skip
        if self.dear is not None:
            with Journal(self.folder / CORRELATION, {**self.settings, **self._scoring(self.dear)}) as journal:
                chosen = stage.correlation.score(
                    entries, self.budget.space, stage.objective, self.dear, journal, stage.executor
                )
            written["correlation"] = {"finetune_steps": self.dear.finetune_steps, "trials": chosen}
        (self.folder / FOUND).write_text(json.dumps(written))

    def _searching(self, make: Callable[..., Searcher]) -> dict[str, Any]:
        """What a search depends on, with a searcher."""
        return {"searcher": settings_of(partial(make)), **self.settings}

    def _scoring(self, evaluator: Evaluator) -> dict[str, Any]:
        """What the scores of an evaluator depend on; how a module is trained counts where candidates are fine-tuned."""
        found = evaluator.settings()
        if not evaluator.finetune_steps:
            return found
        distillation = self.run.taught(self.stage.distillation)
        return {**found, "attributes": settings_of(self.stage.attributes), "distillation": distillation}


def start_name(baseline: str = "") -> str:
    """The file of the policy that a stage's search started from, or a baseline that was run beside it."""
    return f"warm_start-{baseline}.safetensors" if baseline else "warm_start.safetensors"


def start_of(make: Callable[..., Searcher], kept: Path) -> dict[str, str]:
    """The ``warm_start`` of a searcher, of a whole run's folder the stage of the same name; empty if it has none.

    Args:
        kept: in the folder of the stage; what :func:`keep_start` left there comes first.
    """
    path = make.keywords.get("warm_start") if isinstance(make, partial) else None
    if path is None:
        return {}
    return {"warm_start": str(kept if kept.is_file() else of_stage(path, kept.parent.name))}


def keep_start(start: Mapping[str, str], kept: Path) -> None:
    """Copy the policy that a search started from beside its journal, as it may be gone or changed when it goes on."""
    if start and not kept.is_file():
        path = Path(start["warm_start"])
        with atomic_write(kept) as part:
            shutil.copyfile(path / NAME if path.is_dir() else path, part)
