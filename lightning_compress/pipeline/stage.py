"""One stage of a run: find a plan (by search, from a file, or the same numbers everywhere), then fine-tune with it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning import LightningModule
from lightning.pytorch.callbacks import Callback

from lightning_compress.callbacks.base.callback import CompressionCallback
from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.errors import CompressError, did_you_mean
from lightning_compress.core.plan import Number, Plan
from lightning_compress.core.space import Space
from lightning_compress.pipeline.context import RunContext, check_least, set_attributes
from lightning_compress.pipeline.needed_costs import needed_costs
from lightning_compress.pipeline.planners.planner import Allocation
from lightning_compress.pipeline.planners.search import PlanSearch
from lightning_compress.pipeline.training import fit, renew
from lightning_compress.search.correlation import Correlation
from lightning_compress.search.executors.executor import Evaluate, Executor
from lightning_compress.search.executors.serial import Serial
from lightning_compress.search.halving import Halving
from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.searchers.searcher import Searcher
from lightning_compress.surgery.structure import network


@dataclass
class Stage:
    """Settings of one stage; made by Hydra from ``conf/compress/stage``.

    Attributes:
        callbacks: name -> callback, in rising order; the names are for overriding on the command line.
        cost, budget: the limit of the search is ``budget`` times the dense network's cost, or ``budget`` itself, in the
            unit of the cost, when it is above 1.
        searcher: ``(problem, seed, objective) -> Searcher``; None takes ``allocation``, ``uniform`` or a plan file.
        baselines: name -> searcher that is run after it with the same number of trials, for the report. They share
            scores: a candidate that was scored before is not scored again.
        allocation: makes a plan that meets the budget in closed form, when nothing is searched.
        objective: score -> reward.
        trials: candidates to score.
        executor: ``(evaluate) -> Executor``: where candidates are scored.
        in_flight: candidates that are asked and not yet told; see :mod:`lightning_compress.search.loop`.
        halving: cheap scores first, the full one for the best of those in flight; None scores all in full.
        correlation: how well the search's scores rank plans, measured after it; None does not.
        uniform: knob -> number for every layer that has the knob, when nothing is searched and a plan file, if there is
            one, speaks of other stages alone.
        distillation: ``(teacher) -> callback`` for all fine-tuning, of candidates too, or None.
        epochs: of fine-tuning.
        attributes: set on the module for all fine-tuning, of candidates too, such as its learning rate ``lr``.
        finetune_steps, recalibration_batches, validation_batches, monitor: see :class:`Evaluator`.
    """

    callbacks: Mapping[str, CompressionCallback] = field(default_factory=dict)
    cost: Cost | None = None
    budget: float | None = None
    searcher: Callable[..., Searcher] | None = None
    baselines: Mapping[str, Callable[..., Searcher]] | None = None
    allocation: Allocation | None = None
    objective: Objective | None = None
    trials: int = 100
    executor: Callable[[Evaluate], Executor] = Serial
    in_flight: int = 1
    halving: Halving | None = None
    correlation: Correlation | None = None
    uniform: Mapping[str, Number] | None = None
    distillation: Callable[..., Callback] | None = None
    epochs: int = 10
    attributes: Mapping[str, Any] = field(default_factory=dict)
    finetune_steps: int = 0
    recalibration_batches: int = 10
    validation_batches: int | None = None
    monitor: str = "val_acc"

    @property
    def costs(self) -> tuple[Cost, ...]:
        """The costs of its budget and of its objective, which are figures of the run."""
        if self.cost is None:
            return ()
        return (self.cost,) if self.objective is None else needed_costs(self.cost, self.objective)

    def check(self, name: str) -> None:
        """Before anything is searched or trained, whether the numbers of the search can be.

        Args:
            name: of the stage.

        Raises:
            CompressError: one cannot.
        """
        if self.searcher is not None:
            check_least(
                name, trials=(self.trials, 1), in_flight=(self.in_flight, 1), finetune_steps=(self.finetune_steps, 0),
                recalibration_batches=(self.recalibration_batches, 0), validation_batches=(self.validation_batches, 1),
            )  # fmt: skip

    def run(self, name: str, module: LightningModule, run: RunContext) -> LightningModule:
        """Find the plan and fine-tune with it; what an earlier, killed run finished is not done again.

        Args:
            name: of the stage; its folder below the run's.
            module: the network as the stage before left it; it is not changed.
        """
        folder = run.opened(name)
        student = copy.deepcopy(module)
        set_attributes(student, self.attributes, name)
        callbacks, applied = run.teaching(self.distillation), {}
        if self.callbacks:
            composition = Composition(list(self.callbacks.values()), network(module), run.example)
            plan = self._plan(composition, student, run, folder)
            plan.save(folder / "plan.yaml")
            callbacks = [*composition.bound(plan), *callbacks]
            applied = {"plan": plan.to_dict(), "callbacks": composition.settings()}
        settings = {"epochs": self.epochs, "attributes": self.attributes, **applied}
        renew(folder, run.origin(module, self.distillation, **settings))
        return fit(student, run.data, run.make_trainer, folder, self.epochs, run.seed, callbacks, run.make_logger)

    def _plan(self, composition: Composition, student: LightningModule, run: RunContext, folder: Path) -> Plan:
        given, fixed = run.plan, self.searcher is None and self.allocation is None
        if given is not None:
            part = composition.own(given)
            # Where a file says nothing of this stage, a search would have found that all stays; noise, whose outcome
            # training finds, and other numbers that nobody searches are as they would be without the file.
            if part.layers or not given.layers or not (fixed and self.uniform):
                return composition.resolve(part)
        if fixed:
            if not self.uniform:
                raise CompressError(
                    f"stage {folder.name}: give it a searcher, an allocation, uniform numbers, or plan=FILE"
                )
            return composition.resolve(_uniform(composition.space(), self.uniform))
        if self.searcher is None:
            budget = run.budget(folder.name, composition, self.cost, self.budget)
            return composition.resolve(self.allocation(composition, budget))
        return self.searched(composition, student, run, folder).plan()

    def searched(self, composition: Composition, student: LightningModule, run: RunContext, folder: Path) -> PlanSearch:
        """The search of this stage, not yet begun.

        Args:
            composition: this stage's callbacks, bound to the network before it.
            student: a copy of that network's module with this stage's attributes; it is prepared for the callbacks.
            folder: of the stage.

        Raises:
            CompressError: there is nothing to choose, the budget cannot be met, or it or the objective is missing.
        """
        budget = run.budget(folder.name, composition, self.cost, self.budget)
        if self.objective is None:
            raise CompressError(f"stage {folder.name}: objective is null, which a search needs; give it one")
        student.to(run.device)
        for callback in composition.callbacks:
            callback.calibrate(student, run.data.train_dataloader())
        return PlanSearch(self, composition, budget, student, run, folder)


def _uniform(space: Space, numbers: Mapping[str, Number]) -> Plan:
    """The same number for every layer that has the knob.

    Raises:
        CompressError: no layer has it.
    """
    plan = Plan({})
    for knob, number in numbers.items():
        layers = [choice.layer for choice in space.choices if choice.knob == knob]
        if not layers:
            known = {choice.knob for choice in space.choices}
            raise CompressError(
                f"uniform: no layer has the knob {knob!r}{did_you_mean(knob, known)}; known: {sorted(known)}"
            )
        plan = plan.merge(Plan({layer: {knob: number} for layer in layers}))
    return plan
