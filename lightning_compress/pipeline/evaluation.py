"""Settings of the scores that planners work from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.costs.cost import Cost
from lightning_compress.pipeline.context import RunContext, check_least
from lightning_compress.pipeline.evaluator import Evaluator
from lightning_compress.pipeline.student import Student


@final
@dataclass(frozen=True)
class Evaluation:
    """Settings of how a candidate is scored.

    Attributes:
        finetune_steps: optimizer steps before the score.
        recalibration_batches: train batches that the batch norms see before the score; 0 turns recalibration off.
        validation_batches: batches of the validation data for the score; None takes all.
        monitor: the metric that ``validation_step`` must log.
    """

    finetune_steps: int = 0
    recalibration_batches: int = 10
    validation_batches: int | None = None
    monitor: str = "val_acc"

    def check(self, stage: str) -> None:
        """Raise if a number is too small.

        Raises:
            CompressError: it is, with the name of the stage.
        """
        check_least(
            stage,
            finetune_steps=(self.finetune_steps, 0),
            recalibration_batches=(self.recalibration_batches, 0),
            validation_batches=(self.validation_batches, 1),
        )

    def evaluator(
        self, composition: Composition, student: Student, run: RunContext, costs: Sequence[Cost]
    ) -> Evaluator:
        """Return the evaluator of the candidates of a stage.

        Args:
            composition: the callbacks that candidates get.
            student: candidates are copies of its module, which is calibrated for the callbacks.
            run: what the stages of the run share.
            costs: that a score has beside the metrics.

        Raises:
            CompressError: the data have hooks that scores would go without.
        """
        module = student.module.to(run.device)
        for callback in composition.callbacks:
            callback.calibrate(module, run.data.train_dataloader())
        train, validation = run.loaders()
        return Evaluator(
            partial(copy.deepcopy, module),
            composition,
            train,
            validation=validation,
            monitor=self.monitor,
            finetune_steps=self.finetune_steps,
            recalibration_batches=self.recalibration_batches,
            validation_batches=self.validation_batches,
            callbacks=run.teaching(student.distillation),
            seed=run.seed,
            device=run.scoring_device,
            costs=costs,
        )
