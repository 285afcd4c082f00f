"""Stopping a training whose loss is no longer a number, before it costs more time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from typing_extensions import override

from lightning_compress.core.errors import TrialFailedError


@final
class StopAtNaN(Callback):
    """Raises at the first training step whose loss is not finite.

    Raises:
        TrialFailedError: a search records it and goes on; elsewhere it ends the run with a sentence.
    """

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        check_loss(trainer, outputs)


def check_loss(trainer: Trainer, outputs: Any) -> None:
    """Raise unless the loss of a training step is finite.

    Args:
        trainer: that runs the step.
        outputs: what the step returned.

    Raises:
        TrialFailedError: as for :class:`StopAtNaN`.
    """
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs  # none of a manual optimization
    if isinstance(loss, Tensor) and not loss.isfinite().all():
        raise TrialFailedError(
            f"the training loss became {loss.item()} at step {trainer.global_step}; lower the learning rate, or "
            f"compress less"
        )
