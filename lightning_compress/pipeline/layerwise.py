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

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from pathlib import Path

from lightning import LightningModule

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.checkpoint import load_checkpoint
from lightning_compress.pipeline.context import RunContext, check_least
from lightning_compress.pipeline.planners.planner import Planned
from lightning_compress.pipeline.stage import Stage
from lightning_compress.pipeline.training import FINAL, fit, renew
from lightning_compress.surgery.calibration import drop_calibration
from lightning_compress.surgery.structure import network


@dataclass
class LayerwiseStage(Stage):
    """Settings of a layer-by-layer stage; made by Hydra from ``conf/compress/stage/layerwise.yaml``.

    It has one callback, which must be able to add layers to a plan, as ChannelPruning is.

    Attributes:
        steps_between: of the optimizer after each layer; short, since each has a learning rate schedule of its own.
    """

    epochs: int = 20
    steps_between: int = 20

    def check(self, name: str) -> None:
        """Raise also if there is not one callback, or the number of steps is below 0.

        Raises:
            CompressError: it is so.
        """
        if len(self.callbacks) != 1:
            raise CompressError(
                f"stage {name}: one layer after the other is for one callback, got {sorted(self.callbacks)}"
            )
        check_least(name, steps_between=(self.steps_between, 0))
        super().check(name)

    def origin(self, planned: Planned) -> str:
        """Return one sentence on how the plan came about and in which order it is applied."""
        order = ", the least sensitive first" if planned.order else ""
        return f"{planned.origin}; applied layer by layer{order}"

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
        """Compress one layer after the other and train after each, then train at length."""
        plan = planned.plan
        order = [layer for layer in planned.order or composition.profile.layers if layer in plan.layers]
        origin = run.origin(
            module,
            self.distillation,
            epochs=self.epochs,
            steps_between=self.steps_between,
            attributes=self.attributes,
            plan=plan.to_dict(),
            order=order,
            callbacks=composition.settings(),
        )
        renew(folder, origin)
        # What a planner gathered is of the whole network, and criteria work from the one compressed so far.
        drop_calibration(network(student))
        if not (folder / FINAL).is_file():
            parts = [Plan({layer: plan.layers[layer]}) for layer in order]
            self._compress_in_turn(student, parts, composition, run, folder)
        return self.fine_tune(student, run, folder, composition.bound(plan))

    def _compress_in_turn(
        self, student: LightningModule, parts: Sequence[Plan], composition: Composition, run: RunContext, folder: Path
    ) -> None:
        """Apply the parts one after the other, with training between; go on after the last that was finished."""
        plans = list(accumulate(parts, Plan.merge))
        folders = [folder / "layers" / f"{i:03d}-{next(iter(part.layers))}" for i, part in enumerate(parts)]
        done = len(list(takewhile(lambda part: (part / FINAL).is_file(), folders)))
        if done:
            load_checkpoint(student, folders[done - 1] / FINAL)
        for part, plan in list(zip(folders, plans, strict=True))[done:]:
            fit(
                student,
                run.data,
                run.make_trainer,
                folder=part,
                epochs=-1,
                seed=run.seed,
                callbacks=[*composition.bound(plan), *run.teaching(self.distillation)],
                make_logger=run.make_logger,
                steps=self.steps_between,
            )
