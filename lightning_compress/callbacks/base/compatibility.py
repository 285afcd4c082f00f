"""Refuse what does not go beside compression: averages of weights that change meaning, DDP where some rest.

An average of masks, codes and flags is none of them, and one of parameters from before a change with those from after
it belongs to no network. ``WeightAveraging`` (also of sub-classes, as EMA) is new in Lightning 2.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning import Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging

from lightning_compress.core.errors import CompressError
from lightning_compress.surgery._lightning import averages_buffers, needs_all_gradients

WeightAveraging: type[Any] | None = getattr(lightning_callbacks, "WeightAveraging", None)


def check_averaging(callback: Callback, listed: Sequence[Callback], steady: bool) -> None:
    """Raise if an average in the same training would spoil what a compression callback makes.

    Args:
        callback: that compresses.
        listed: all callbacks of the Trainer.
        steady: whether parameters mean the same from the first step to the last.

    Raises:
        CompressError: naming both and the remedy.
    """
    mine = type(callback).__name__
    for place, other in enumerate(listed):
        averages = WeightAveraging is not None and isinstance(other, WeightAveraging)
        if not averages and not isinstance(other, StochasticWeightAveraging):
            continue
        name = type(other).__name__
        if not steady:
            raise CompressError(
                f"{mine}: it replaces weights in the course of the training, which {name} would mix with those of "
                f"before; average in a training after this one"
            )
        if place < list(listed).index(callback):
            raise CompressError(
                f"{mine}: {name} is listed before it and copies the network of before; list {name} after all callbacks "
                f"that compress"
            )
        if averages and averages_buffers(other):
            raise CompressError(
                f"{mine}: {name} averages buffers too, and masks, codes and flags have no average; give it "
                f"use_buffers=False"
            )


def check_gradients(callback: Callback, trainer: Trainer, rests: bool) -> None:
    """Raise if DDP would wait for gradients of parameters that rest for a part of the training.

    It ends in an error of torch's where these begin to rest; in the last step, with another network on each process.

    Args:
        callback: that compresses.
        trainer: about to fit.
        rests: whether it has such parameters.

    Raises:
        CompressError: with the strategy that finds them.
    """
    if rests and needs_all_gradients(trainer):
        raise CompressError(
            f"{type(callback).__name__}: it has parameters that rest for a part of the training, and "
            f"{type(trainer.strategy).__name__} waits for their gradients; give the Trainer "
            f"strategy='ddp_find_unused_parameters_true'"
        )
