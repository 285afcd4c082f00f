"""Learning-rate probe: short complete fine-tunings of the compressed network, one for each rate.

    lr = argmin over r of  validation loss after S steps at r,     r = share x the module's own learning rate

Each is a training from the same start on the same batches: the plan applied, the module's own optimizer with its whole
schedule in ``S`` steps, batch norms recalibrated. Unlike the range test of Smith 2017 (arXiv 1506.01186), which raises
the rate within one training, it needs no eye to read a curve. It is ours. Short trainings favor smaller rates than long
ones do (Wu et al. 2018, arXiv 1803.02021): with many epochs, take the next larger rate, or more steps.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, final

from lightning import LightningModule

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.errors import CompressError, TrialFailedError
from lightning_compress.core.json_record import read_record, write_record
from lightning_compress.core.plan import Plan
from lightning_compress.core.settings import settings_of
from lightning_compress.pipeline.context import RunContext, check_least
from lightning_compress.pipeline.evaluation import Evaluation
from lightning_compress.pipeline.student import Student

AUTO = "auto"  # in place of a learning rate
PROBED = "lr_probe.json"  # in the folder of a stage


@final
@dataclass(frozen=True)
class LearningRateProbe:
    """Settings of the probe.

    Attributes:
        steps: of the optimizer, for each rate.
        shares: of the module's own learning rate that are tried.
        monitor: the metric that ``validation_step`` logs and that is to be small.
    """

    steps: int = 60
    shares: Sequence[float] = (1.0, 0.3, 0.1, 0.03, 0.01)
    monitor: str = "val_loss"

    def check(self, stage: str) -> None:
        """Raise if a number cannot be.

        Args:
            stage: its name.

        Raises:
            CompressError: it is so.
        """
        check_least(stage, steps=(self.steps, 1))
        if not self.shares or not all(0 < share < inf for share in self.shares):
            raise CompressError(
                f"stage {stage}: lr_probe.shares must be finite numbers above 0, got {list(self.shares)}"
            )

    def probe(
        self, student: Student, plan: Plan, composition: Composition, run: RunContext, *, folder: Path
    ) -> tuple[float, str]:
        """Return the learning rate, and a sentence on how it was found; what was probed before is read.

        Args:
            student: not compressed; its module's ``lr`` is the rate that shares are of.
            plan: that is applied.
            composition: the callbacks.
            run: what the stages of the run share.
            folder: of the stage.

        Raises:
            CompressError: the module has no learning rate, the monitor is not logged, or no rate gives a finite loss.
        """
        own = learning_rate(student.module)
        rates = sorted({float(f"{share * own:.3g}") for share in self.shares}, reverse=True)
        settings = run.origin(
            student.module,
            student.distillation,
            plan=plan.to_dict(),
            callbacks=composition.settings(),
            attributes=settings_of(student.attributes),
            rates=rates,
            steps=self.steps,
            monitor=self.monitor,
        )
        losses = _read(folder / PROBED, settings)
        if losses is None:
            losses = {rate: self._loss(rate, student, plan, composition, run) for rate in rates}
            write_record(folder / PROBED, {"settings": settings, "losses": list(losses.items())})
        able = {rate: loss for rate, loss in losses.items() if loss is not None}
        if not able:
            raise CompressError(
                f"lr=auto: after {self.steps} steps at {_listed(rates)} the loss is not finite; give smaller shares"
            )
        best = min(able, key=lambda rate: (able[rate], rate))
        return best, (
            f"fine-tuned with the learning rate {best:g}: of {_listed(rates)} it has the least {self.monitor} after "
            f"{self.steps} steps"
        )

    def _loss(
        self, rate: float, student: Student, plan: Plan, composition: Composition, run: RunContext
    ) -> float | None:
        """Return the monitored metric after a training at a rate; None where it is not finite."""
        module = copy.deepcopy(student.module)
        module.lr = rate  # type: ignore[assignment]
        evaluation = Evaluation(finetune_steps=self.steps, monitor=self.monitor)
        try:
            score = evaluation.evaluator(composition, replace(student, module=module), run, ())(plan)
        except TrialFailedError:
            return None
        return score.metrics[self.monitor]


def learning_rate(module: LightningModule) -> float:
    """Return the attribute ``lr`` of a module.

    Raises:
        CompressError: it is no number above 0.
    """
    lr: Any = getattr(module, "lr", None)
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 < lr < inf:
        raise CompressError(
            f"lr=auto tries shares of the attribute lr of {type(module).__name__}, which is {lr!r}; give the module a "
            f"number lr that its configure_optimizers reads"
        )
    return float(lr)


def _read(file: Path, settings: dict[str, Any]) -> dict[float, float | None] | None:
    """Return the losses of an earlier probe with the same settings."""
    if not file.is_file():
        return None
    written = read_record(file)
    return dict(written["losses"]) if written["settings"] == json.loads(json.dumps(settings)) else None


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)
