"""How far a training is, from the step number alone."""

from __future__ import annotations

from math import isinf

from lightning import Trainer

from lightning_compress.errors import CompressError


def progress(trainer: Trainer, who: str, step: int | None = None) -> float:
    """Optimizer steps done (or ``step``) over all steps, in [0, 1].

    Raises:
        CompressError: the Trainer has no end.
    """
    total = trainer.estimated_stepping_batches
    if isinf(total):
        raise CompressError(f"{who}: its schedule needs the number of steps; give the Trainer max_epochs or max_steps")
    return min((trainer.global_step if step is None else step) / max(total, 1), 1.0)
