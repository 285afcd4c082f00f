"""A stage that compresses one layer after the other, with a short training after each and a long one at the end.

    for l in layers, the least sensitive first:  apply the plan of l to the network as it is now;  train briefly
    train at length

Source: paper 2 (Hu et al. 2018, arXiv 1805.11394), of which the abstract and a reader's notes were available. Theirs:
layer by layer according to sensitivity, and fine-tuning with distillation; the abstract has it after pruning, the notes
after every layer, so here it is both. Reconstructed: how sensitivities are measured and become rates (search/
sensitivity.py), the order (least sensitive first), the dense network as teacher, and the lengths. What is chosen of a
layer is the callback's business; with the genetic criterion this is the paper's method. A layer's inputs, from which
criterion and refit work, are those of the network with all earlier layers compressed and trained. It takes a training
for each layer: for many layers, or for a search over plans, use Stage.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any

from lightning import LightningModule
from lightning.pytorch.callbacks import Callback

from lightning_compress.callbacks.base.callback import CompressionCallback
from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.atomic_write import atomic_write
from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.core.settings import settings_of
from lightning_compress.core.space import Space
from lightning_compress.pipeline.checkpoint import load_checkpoint
from lightning_compress.pipeline.context import MEASURED, RunContext, check_least, set_attributes
from lightning_compress.pipeline.evaluator import Evaluator
from lightning_compress.pipeline.needed_costs import needed_costs
from lightning_compress.pipeline.training import FINAL, fit, renew
from lightning_compress.search.journal import Entry, Journal
from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.sensitivity import JOURNAL, allocate, measure
from lightning_compress.surgery.structure import network


@dataclass
class LayerwiseStage:
    """Settings of a layer by layer stage; made by Hydra from ``conf/compress/stage/layerwise.yaml``.

    Attributes:
        callbacks: name -> the one callback; it must be able to add layers to a plan, as ChannelPruning is.
        cost, budget: as for :class:`~lightning_compress.pipeline.stage.Stage`.
        objective: score -> the reward whose loss is the sensitivity.
        values: of each layer's knob that are tried to measure its sensitivity.
        distillation: ``(teacher) -> callback`` for all training, or None.
        steps_between: of the optimizer after each layer; short, since each has a learning rate schedule of its own.
        epochs: of training at the end.
        attributes: set on the module for the training, such as its learning rate ``lr``.
        recalibration_batches, validation_batches, monitor: see :class:`Evaluator`.
    """

    callbacks: Mapping[str, CompressionCallback]
    cost: Cost
    budget: float
    objective: Objective
    values: int = 3
    distillation: Callable[..., Callback] | None = None
    steps_between: int = 20
    epochs: int = 20
    attributes: Mapping[str, Any] = field(default_factory=dict)
    recalibration_batches: int = 10
    validation_batches: int | None = None
    monitor: str = "val_acc"

    @property
    def costs(self) -> tuple[Cost, ...]:
        """The costs of its budget and of its objective, which are figures of the run."""
        return needed_costs(self.cost, self.objective)

    def check(self, name: str) -> None:
        """Before anything is measured or trained, whether the numbers can be.

        Args:
            name: of the stage.

        Raises:
            CompressError: one cannot.
        """
        check_least(
            name, values=(self.values, 1), steps_between=(self.steps_between, 0),
            recalibration_batches=(self.recalibration_batches, 0), validation_batches=(self.validation_batches, 1),
        )  # fmt: skip

    def run(self, name: str, module: LightningModule, run: RunContext) -> LightningModule:
        """Measure, allocate, compress layer by layer; what an earlier, killed run finished is not done again.

        Args:
            name: of the stage; its folder below the run's.
            module: the network as the stage before left it; it is not changed.

        Raises:
            CompressError: there is not one callback, a setting is wrong, or the budget cannot be met.
        """
        if len(self.callbacks) != 1:
            raise CompressError(
                f"stage {name}: one layer after the other is for one callback, got {sorted(self.callbacks)}"
            )
        folder = run.opened(name)
        composition = Composition(list(self.callbacks.values()), network(module), run.example)
        if run.plan is not None:
            plan = composition.resolve(composition.own(run.plan))
            order = [layer for layer in composition.profile.layers if layer in plan.layers]
        else:
            plan, order = self._allocated(composition, module, run, folder)
        plan.save(folder / "plan.yaml")
        student = copy.deepcopy(module)
        set_attributes(student, self.attributes, name)
        origin = run.origin(
            module, self.distillation, epochs=self.epochs, steps_between=self.steps_between,
            attributes=self.attributes, plan=plan.to_dict(), order=order, callbacks=composition.settings(),
        )  # fmt: skip
        renew(folder, origin)
        if not (folder / FINAL).is_file():
            self._thin(student, [Plan({layer: plan.layers[layer]}) for layer in order], composition, run, folder)
        return fit(
            student, run.data, run.make_trainer, folder, self.epochs, run.seed,
            self._training(composition, plan, run), run.make_logger,
        )  # fmt: skip

    def _allocated(
        self, composition: Composition, module: LightningModule, run: RunContext, folder: Path
    ) -> tuple[Plan, list[str]]:
        """The plan that meets the budget, and its layers from the least sensitive to the most."""
        budget = run.budget(folder.name, composition, self.cost, self.budget)
        space = budget.space
        # What is gathered on it must not reach the network that is trained.
        probe = copy.deepcopy(module).to(run.device)
        for callback in composition.callbacks:
            callback.calibrate(probe, run.data.train_dataloader())
        evaluator = Evaluator(
            partial(copy.deepcopy, probe), composition, *run.loaders(),
            self.monitor, recalibration_batches=self.recalibration_batches, seed=run.seed,
            validation_batches=self.validation_batches, device=run.scoring_device,
            costs=needed_costs(self.cost, self.objective),
        )  # fmt: skip
        fingerprint = {
            "values": self.values, "objective": settings_of(self.objective), "limit": budget.limit,
            "cost": settings_of(self.cost),
            "space": [[c.layer, c.knob, list(c.values)] for c in space.choices], **evaluator.settings(),
        }  # fmt: skip
        with Journal(folder / JOURNAL, fingerprint) as journal:
            sensitivities = measure(space, evaluator, journal, self.objective, self.values)
            whole, *lowered = journal
        point = allocate(budget, sensitivities)
        robust_first = sorted(range(len(sensitivities)), key=lambda i: sensitivities[i].mean)
        self._write(robust_first, space, point, whole, lowered, folder)
        plan = composition.resolve(space.plan(point))
        return plan, [space.choices[i].layer for i in robust_first if space.choices[i].layer in plan.layers]

    def _write(
        self, order: Sequence[int], space: Space, point: Sequence[int], whole: Entry, lowered: Sequence[Entry],
        folder: Path,
    ) -> None:  # fmt: skip
        """What the report shows of the measurement: each layer with its knob, what was tried, and what it got.

        Args:
            order: numbers of the choices, the least sensitive first.
            point: that was allocated.
            whole: the network as it came in.
            lowered: all others, each with one choice below its largest.
        """
        tried: list[list[tuple[float, float | None]]] = [[] for _ in space.choices]
        for entry in lowered:
            (i,) = [i for i, index in enumerate(entry.indices) if index != space.largest[i]]
            reward = None if entry.score is None else self.objective(entry.score)
            tried[i].append((space.choices[i].values[entry.indices[i]], reward))
        layers = [
            {
                "layer": space.choices[i].layer, "knob": space.choices[i].knob, "tried": tried[i],
                "chosen": space.choices[i].values[point[i]],
            }
            for i in order
        ]  # fmt: skip
        with atomic_write(folder / MEASURED) as part:
            part.write_text(json.dumps({"whole": self.objective(whole.score), "layers": layers}))

    def _thin(
        self, student: LightningModule, parts: Sequence[Plan], composition: Composition, run: RunContext, folder: Path
    ) -> None:
        """Apply the parts one after the other, with training between; go on after the last that was finished."""
        plans = list(accumulate(parts, Plan.merge))
        folders = [folder / "layers" / f"{i:03d}-{next(iter(part.layers))}" for i, part in enumerate(parts)]
        done = len(list(takewhile(lambda part: (part / FINAL).is_file(), folders)))
        if done:
            load_checkpoint(student, folders[done - 1] / FINAL)
        for part, plan in list(zip(folders, plans, strict=True))[done:]:
            callbacks = self._training(composition, plan, run)
            fit(
                student, run.data, run.make_trainer, part, -1, run.seed, callbacks, run.make_logger, self.steps_between
            )  # fmt: skip

    def _training(self, composition: Composition, plan: Plan, run: RunContext) -> list[Callback]:
        return [*composition.bound(plan), *run.teaching(self.distillation)]
