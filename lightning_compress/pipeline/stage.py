"""One stage of a run: make a plan, then fine-tune with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any, Self

from lightning import LightningModule
from lightning.pytorch.callbacks import Callback

from lightning_compress.callbacks.base.callback import CompressionCallback
from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.errors import CompressError
from lightning_compress.core.json_record import write_record
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.context import PLANNED, RunContext, check_least, set_attributes
from lightning_compress.pipeline.lr_probe import AUTO, LearningRateProbe
from lightning_compress.pipeline.planners.from_file import FromFile
from lightning_compress.pipeline.planners.planner import Planned, Planner
from lightning_compress.pipeline.student import Student
from lightning_compress.pipeline.training import fit, renew
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.structure import network


@dataclass
class Stage:
    """Settings of one stage; made by Hydra from ``conf/compress/stage``.

    Attributes:
        callbacks: name -> callback, in rising order; the names are for overriding on the command line. Without any, the
            stage trains alone.
        planner: makes the plan that the callbacks apply.
        distillation: ``(teacher) -> callback`` for all fine-tuning, of candidates too, or None.
        epochs: of fine-tuning.
        attributes: set on the module for all fine-tuning, of candidates too, such as its learning rate ``lr``. With
            ``lr="auto"`` the fine-tuning has the rate that ``lr_probe`` finds, and candidates the module's own.
        lr_probe: how that rate is found.
    """

    callbacks: Mapping[str, CompressionCallback] = field(default_factory=dict)
    planner: Planner | None = None
    distillation: Callable[..., Callback] | None = None
    epochs: int = 10
    attributes: Mapping[str, Any] = field(default_factory=dict)
    lr_probe: LearningRateProbe = field(default_factory=LearningRateProbe)

    @property
    def costs(self) -> tuple[Cost, ...]:
        """The costs that its planner works with, which are figures of the run."""
        return () if self.planner is None else self.planner.costs

    def check(self, name: str) -> None:
        """Raise if a setting cannot be, before anything is searched or trained.

        Args:
            name: of the stage.

        Raises:
            CompressError: a setting cannot be, or there are callbacks and no planner.
        """
        check_least(name, epochs=(self.epochs, 0))
        self._check_rate(name)
        if self.callbacks and self.planner is None:
            raise CompressError(
                f"stage {name}: it has callbacks and no planner; give it one (uniform, search, knapsack, from_file), "
                f"or plan=FILE"
            )
        if self.planner is not None:
            self.planner.check(name)
        self.lr_probe.check(name)

    def _check_rate(self, name: str) -> None:
        """Raise for a learning rate that the optimizer would refuse after the search."""
        rate = self.attributes.get("lr")
        if (isinstance(rate, str) and rate != AUTO) or (isinstance(rate, int | float) and not 0 <= rate < inf):
            raise CompressError(f"stage {name}: lr must be a finite number, 0 or more, or {AUTO!r}, got {rate!r}")

    def with_plan(self, plan: Plan | str | Path | Mapping[str, Any]) -> Self:
        """Return a copy that takes its part of a plan in place of its planner's.

        Args:
            plan: a plan, a YAML file, or plain dicts.
        """
        return replace(self, planner=FromFile(plan, self.planner)) if self.callbacks else self

    def run(self, name: str, module: LightningModule, run: RunContext) -> LightningModule:
        """Find the plan and fine-tune with it; what an earlier, killed run finished is not done again.

        Args:
            name: of the stage; its folder below the run's.
            module: the network as the stage before left it; it is not changed.
            run: what the stages of the run share.

        Returns:
            The trained module, with the plan applied.

        Raises:
            CompressError: a setting cannot be, or no plan can be made.
        """
        self.check(name)
        folder = run.opened(name)
        student = Student(clone(module), self.distillation, self.given_attributes)
        set_attributes(student.module, self.given_attributes, name)
        if not self.callbacks:
            stage, _ = self._with_rate(student, Planned(Plan({}), ""), run, folder)
            renew(folder, run.origin(module, self.distillation, epochs=self.epochs, attributes=stage.attributes))
            return stage.fine_tune(student.module, run, folder)
        composition = Composition(list(self.callbacks.values()), network(module), run.example)
        assert self.planner is not None  # check has said so
        planned = self.planner.make_plan(composition, student, run, folder)
        planned = self.planner.measured(planned, composition, student, run, folder)
        planned = replace(planned, plan=composition.resolve(planned.plan))
        planned.plan.save(folder / "plan.yaml")
        stage, told = self._with_rate(student, planned, run, folder)
        write_record(folder / PLANNED, {"origin": self.origin(planned) + told, "limit": planned.limit})
        return stage.train(module, student.module, planned, composition, run, folder=folder)

    @property
    def given_attributes(self) -> dict[str, Any]:
        """The attributes but for a learning rate that is to be found."""
        return {key: value for key, value in self.attributes.items() if (key, value) != ("lr", AUTO)}

    def _with_rate(self, student: Student, planned: Planned, run: RunContext, folder: Path) -> tuple[Self, str]:
        """Return the stage with a number for its learning rate, set on the student's module, and words on it."""
        if self.given_attributes == dict(self.attributes):
            return self, ""
        composition = Composition(list(self.callbacks.values()), network(student.module), run.example)
        rate, told = self.lr_probe.probe(student, planned.plan, composition, run, folder=folder)
        attributes = {**self.attributes, "lr": rate}
        set_attributes(student.module, attributes, folder.name)
        return replace(self, attributes=attributes), f"; {told}"

    def origin(self, planned: Planned) -> str:
        """Return one sentence on how the plan came about and is applied."""
        return planned.origin

    def train(
        self,
        module: LightningModule,
        student: LightningModule,
        planned: Planned,
        composition: Composition,
        run: RunContext,
        *,
        folder: Path,
    ) -> LightningModule:
        """Apply a plan to the student and fine-tune it.

        Args:
            module: the network as the stage before left it; it is not changed.
            student: a copy, which is changed and returned.
            planned: the plan, rounded to what the network can have.
            composition: the callbacks.
            run: what the stages of the run share.
            folder: of the stage.
        """
        settings = {"plan": planned.plan.to_dict(), "callbacks": composition.settings()}
        origin = run.origin(module, self.distillation, epochs=self.epochs, attributes=self.attributes, **settings)
        renew(folder, origin)
        return self.fine_tune(student, run, folder, composition.bound(planned.plan))

    def fine_tune(
        self, student: LightningModule, run: RunContext, folder: Path, callbacks: Sequence[Callback] = ()
    ) -> LightningModule:
        """Train for the epochs of the stage, with its distillation."""
        return fit(
            student,
            run.data,
            run.make_trainer,
            folder=folder,
            epochs=self.epochs,
            seed=run.seed,
            callbacks=[*callbacks, *run.teaching(self.distillation)],
            make_logger=run.make_logger,
        )
