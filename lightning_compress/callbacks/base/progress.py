"""Progress of a training, from the step number alone."""

from __future__ import annotations

from math import isinf

from lightning import Trainer

from lightning_compress.core.errors import CompressError


def trains_nothing(trainer: Trainer) -> bool:
    """Return whether the Trainer fits a fresh module for no epochs or no steps, so that nothing follows changes."""
    return 0 in (trainer.max_epochs, trainer.max_steps) and trainer.ckpt_path is None


def steps_done(trainer: Trainer) -> int:
    """Return optimizer steps so far; batches if the module optimizes manually."""
    if trainer.lightning_module.automatic_optimization:
        return trainer.global_step
    return trainer.fit_loop.epoch_loop.total_batch_idx


def share_done(trainer: Trainer, step: int | None = None) -> float | None:
    """Return steps done (or ``step``) over all steps, in [0, 1]; None if the Trainer has no end."""
    done, total = steps_done(trainer), trainer.estimated_stepping_batches
    if isinf(total) or total < 0:
        return None
    if not trainer.lightning_module.automatic_optimization and trainer.max_steps > 0 and done:
        total = min(total, trainer.max_steps * done / max(trainer.global_step, 1))  # which counts every optimizer's
    return min((done if step is None else step) / max(total, 1), 1.0)


def progress(trainer: Trainer, who: str, step: int | None = None) -> float:
    """Return steps done (or ``step``) over all steps, in [0, 1].

    Raises:
        CompressError: the Trainer has no end.
    """
    found = share_done(trainer, step)
    if found is None:
        raise CompressError(
            f"{who}: its schedule needs the number of steps; give the Trainer max_steps, or max_epochs and data of "
            f"known length"
        )
    return found
