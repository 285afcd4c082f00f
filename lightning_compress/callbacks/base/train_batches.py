"""Read train batches of a Trainer before it begins, for criteria, refits and shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning import Trainer

from lightning_compress.surgery._lightning import loaders_of
from lightning_compress.surgery.inputs import Mode, combined
from lightning_compress.surgery.isolated_rng import isolated_rng


def train_batches(trainer: Trainer) -> Iterator[Any]:
    """Return the batches that the first loop with data would see, train before validation before test.

    Of several loaders for training they are what ``training_step`` gets, one batch of each. Reading them moves none of
    the random numbers of the training that follows.
    """
    loops = (trainer.fit_loop, trainer.validate_loop, trainer.test_loop, trainer.predict_loop)
    for loop in loops:
        if (loaders := loaders_of(loop)) is not None:
            with isolated_rng():
                mode: Mode = "max_size_cycle" if loop is trainer.fit_loop else "sequential"  # Lightning's own
                yield from combined(loaders, mode)
            return
