"""Progress of a training, from the step number alone."""

from __future__ import annotations

from math import ceil, isinf

from lightning import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from lightning_compress.core.errors import CompressError
from lightning_compress.surgery._lightning import callbacks_of


def trains_nothing(trainer: Trainer) -> bool:
    """Return whether the Trainer fits a fresh module without a single step, so that nothing follows changes.

    It is told to, by a limit of 0, or has reached its end with another module: Lightning counts on and trains none.
    """
    done = (trainer.current_epoch, trainer.max_epochs), (trainer.global_step, trainer.max_steps)
    ended = any(limit is not None and 0 <= limit <= number for number, limit in done)
    return (ended or trainer.limit_train_batches == 0) and trainer.ckpt_path is None


def planned_steps(trainer: Trainer) -> int | float:
    """Return the optimizer steps of a whole training; infinity or -1 where the Trainer has no end."""
    total = trainer.estimated_stepping_batches  # as if batches were accumulated in all epochs as in this one
    schedules = [c for c in callbacks_of(trainer) if isinstance(c, GradientAccumulationScheduler)]
    batches, epochs = trainer.num_training_batches, trainer.max_epochs
    if not schedules or epochs is None or epochs < 1 or isinf(batches):
        return total
    steps = sum(ceil(batches / schedules[-1].get_accumulate_grad_batches(epoch)) for epoch in range(epochs))
    return steps if trainer.max_steps < 0 else min(steps, trainer.max_steps)


def steps_done(trainer: Trainer) -> int:
    """Return optimizer steps so far; batches if the module optimizes manually."""
    if trainer.lightning_module.automatic_optimization:
        return trainer.global_step
    return trainer.fit_loop.epoch_loop.total_batch_idx


def ends_with_this_epoch(trainer: Trainer) -> bool:
    """Return, where an epoch ends, whether the training does by the limits of its Trainer."""
    return trainer.current_epoch + 1 == trainer.max_epochs or 0 <= trainer.max_steps <= trainer.global_step


def share_done(trainer: Trainer, step: int | None = None) -> float | None:
    """Return steps done (or ``step``) over all steps, in [0, 1]; None if the Trainer has no end."""
    done, total = steps_done(trainer), planned_steps(trainer)
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
