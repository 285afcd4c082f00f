"""One stage of a run: find a plan (by search, from a file, or the same numbers everywhere), then fine-tune with it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any

from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from lightning_compress.allocations.allocation import Allocation
from lightning_compress.budget import Budget
from lightning_compress.callbacks.base import CompressionCallback
from lightning_compress.callbacks.composition import Composition
from lightning_compress.cost import Cost
from lightning_compress.errors import CompressError, did_you_mean
from lightning_compress.fit import fit
from lightning_compress.plan import Number, Plan
from lightning_compress.profile import Profile
from lightning_compress.record import network
from lightning_compress.search.evaluator import Evaluator
from lightning_compress.search.executor import Evaluate, Executor
from lightning_compress.search.halving import Halving
from lightning_compress.search.journal import Entry, Journal, journal_name
from lightning_compress.search.loop import Best, search
from lightning_compress.search.objective import Objective
from lightning_compress.search.policy_file import of_stage
from lightning_compress.search.problem import Problem
from lightning_compress.search.searcher import Searcher
from lightning_compress.search.serial import Serial
from lightning_compress.space import Space


@dataclass
class Run:
    """What all stages of a run share.

    Attributes:
        data: batches; the test loader is not opened by any stage.
        dense: the trained network before any stage: the teacher, and what budgets are shares of.
        dense_profile: its profile.
        example: one input batch.
        make_trainer: ``lightning.Trainer`` with the user's settings, as a partial.
        folder: of the run; each stage has its own below it.
        seed: of everything.
        plan: a file that replaces the search, or None.
    """

    data: LightningDataModule
    dense: LightningModule
    dense_profile: Profile
    example: Any
    make_trainer: Callable[..., Trainer]
    folder: Path
    seed: int
    plan: Plan | None

    def teaching(self, distillation: Callable[..., Callback] | None) -> list[Callback]:
        """The distillation of a stage, with the dense network as teacher; empty for None."""
        return [distillation(teacher=copy.deepcopy(self.dense))] if distillation else []


@dataclass
class Stage:
    """Settings of one stage; made by Hydra from ``conf/compress/stage``.

    Attributes:
        callbacks: name -> callback, in rising order; the names are for overriding on the command line.
        cost, budget: the limit of the search is ``budget`` times the dense network's cost.
        searcher: ``(problem, seed, objective) -> Searcher``; None takes ``allocation``, ``uniform`` or a plan file.
        baselines: name -> searcher that is run after it with the same number of trials, for the report. They share
            scores: a candidate that was scored before is not scored again.
        allocation: makes a plan that meets the budget in closed form, when nothing is searched.
        objective: score -> reward.
        trials: candidates to score.
        executor: ``(evaluate) -> Executor``: where candidates are scored.
        batch: candidates that are open at a time; see :mod:`lightning_compress.search.loop`.
        halving: cheap scores first, the full one for the best of each batch; None scores all in full.
        uniform: knob -> number for every layer that has the knob, when nothing is searched.
        distillation: ``(teacher) -> callback`` for all fine-tuning, of candidates too, or None.
        epochs: of fine-tuning.
        attributes: set on the module for the fine-tuning, such as its learning rate ``lr``.
        finetune_steps, recalibration_batches, monitor: see :class:`Evaluator`.
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
    batch: int = 1
    halving: Halving | None = None
    uniform: Mapping[str, Number] | None = None
    distillation: Callable[..., Callback] | None = None
    epochs: int = 10
    attributes: Mapping[str, Any] = field(default_factory=dict)
    finetune_steps: int = 0
    recalibration_batches: int = 10
    monitor: str = "val_acc"

    def run(self, name: str, module: LightningModule, run: Run) -> LightningModule:
        """Find the plan and fine-tune with it; what an earlier, killed run finished is not done again.

        Args:
            name: of the stage; its folder below the run's.
            module: the network as the stage before left it; it is not changed.
        """
        folder = run.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        student = copy.deepcopy(module)
        bound: Sequence[Callback] = ()
        if self.callbacks:
            composition = Composition(list(self.callbacks.values()), network(module), run.example)
            plan = self._plan(composition, module, run, folder)
            plan.save(folder / "plan.yaml")
            bound = composition.bound(plan)
        set_attributes(student, self.attributes, name)
        fit(
            student,
            run.data,
            run.make_trainer,
            folder,
            self.epochs,
            run.seed,
            [*bound, *run.teaching(self.distillation)],
        )
        return student

    def _plan(self, composition: Composition, module: LightningModule, run: Run, folder: Path) -> Plan:
        space = composition.space()
        if run.plan is not None:
            return composition.realise(run.plan)
        if self.searcher is None and self.allocation is None:
            if not self.uniform:
                raise CompressError("stage: give it a searcher, an allocation, uniform numbers, or plan=FILE")
            return composition.realise(_uniform(space, self.uniform))
        budget = Budget(
            lambda plan: self.cost(composition.predict(plan)), self.budget * self.cost(run.dense_profile), space
        )
        if self.searcher is None:
            return composition.realise(self.allocation(composition, budget))
        for callback in composition.callbacks:
            callback.prepare(module, run.data.train_dataloader())
        evaluator = Evaluator(
            partial(copy.deepcopy, module), composition, run.data.train_dataloader(), run.data.val_dataloader(),
            self.monitor, self.finetune_steps, self.recalibration_batches, run.teaching(self.distillation), run.seed,
        )  # fmt: skip
        settings = {
            "objective": repr(self.objective), "limit": budget.limit,
            "seed": run.seed, "batch": self.batch, "halving": repr(self.halving), "cost": repr(self.cost),
            **evaluator.settings(),
            "space": [[c.layer, c.knob, list(c.values)] for c in space.choices],
        }  # fmt: skip
        problem = Problem(budget, composition.profile, composition.predict)
        executor = self.executor if self.halving is None else self.halving.over(self.executor, self.objective)
        scored: list[Entry] = []
        best: dict[str, Best] = {}
        for name, make in {"": self.searcher, **(self.baselines or {})}.items():
            with Journal(folder / journal_name(name), {"searcher": _describe(make), **settings}) as journal:
                start = start_of(make, folder.name)
                searcher = make(problem=problem, seed=run.seed, objective=self.objective, **start)
                best[name] = search(
                    searcher, evaluator, journal, self.trials, executor=executor, batch=self.batch, known=scored
                )
                scored += journal
            if not name:
                searcher.save(folder)
        written = {"searcher": _describe(self.searcher), **settings, "baselines": list(best)[1:]}
        (folder / "search.json").write_text(json.dumps(written))
        return best[""].plan


def set_attributes(module: LightningModule, attributes: Mapping[str, Any], stage: str) -> None:
    """Set what differs in the fine-tuning of a stage, such as the learning rate.

    Raises:
        CompressError: the module has no such attribute.
    """
    for key, value in attributes.items():
        if not hasattr(module, key):
            raise CompressError(
                f"stage {stage}: {type(module).__name__} has no attribute {key!r} to set for fine-tuning"
            )
        setattr(module, key, value)


def start_of(make: Callable[..., Searcher], stage: str) -> dict[str, str]:
    """The ``warm_start`` of a searcher, of a whole run's folder the stage of that name; empty if it has none."""
    path = make.keywords.get("warm_start") if isinstance(make, partial) else None
    return {} if path is None else {"warm_start": str(of_stage(path, stage))}


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


def _describe(searcher: Callable[..., Searcher]) -> dict[str, Any]:
    made = searcher if isinstance(searcher, partial) else partial(searcher)
    settings = {k: v if isinstance(v, (int, float, str, NoneType)) else repr(v) for k, v in made.keywords.items()}
    return {"class": f"{made.func.__module__}.{made.func.__qualname__}", **settings}
