"""Running Lightning without its messages, bars and files, which many small runs would repeat."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from lightning import Callback, Trainer

from lightning_compress.callbacks.base.device import trains_on


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's loggers and warnings inside the context."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def quiet_trainer(
    device: torch.device,
    callbacks: Sequence[Callback] = (),
    max_steps: int = -1,
    limit_val_batches: float | None = None,
    limit_test_batches: float | None = None,
) -> Trainer:
    """Return a trainer on a device that shows and writes nothing; arguments as those of :class:`~lightning.Trainer`."""
    return Trainer(
        **trains_on(device),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
        callbacks=list(callbacks),
        max_steps=max_steps,
        limit_val_batches=limit_val_batches,
        limit_test_batches=limit_test_batches,
    )
