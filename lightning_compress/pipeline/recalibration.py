"""Re-estimate the statistics of batch norms (EagleEye, arXiv 2007.02491, section 3).

Train batches go through ``training_step``, which alone knows what they are: several loaders, views, mixup. Of a module
whose step runs only inside a training, as of one that optimizes manually, the network runs on what the step gives it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from lightning_compress.callbacks.base.norm_statistics import average_statistics, averaging
from lightning_compress.core.errors import CompressError
from lightning_compress.surgery.inputs import network_inputs
from lightning_compress.surgery.modes import without_dropout

HOOKS = [f"on_validation_{when}" for when in ("start", "epoch_start", "batch_start", "batch_end", "epoch_end", "end")]


def recalibrate(module: LightningModule, batches: Iterable[Any], trainer: Trainer) -> None:
    """Set the statistics of all batch norms to plain averages over some train batches.

    Args:
        module: is changed in place.
        batches: of train data.
        trainer: made with :class:`TrainingForward` as its callback.
    """
    if module.automatic_optimization:
        with suppress(_NeedsTraining), _without_hooks(module):
            trainer.validate(module, batches, verbose=False)
            return
    average_statistics(module, network_inputs(module, batches))


@contextmanager
def _without_hooks(module: LightningModule) -> Iterator[None]:
    """Leave out the module's hooks of a validation, which expect that its ``validation_step`` has run."""
    own = {name: vars(module)[name] for name in HOOKS if name in vars(module)}
    vars(module).update(dict.fromkeys(HOOKS, _nothing))
    try:
        yield
    finally:
        for name in HOOKS:
            del vars(module)[name]
        vars(module).update(own)


def _nothing(*_: Any) -> None:
    """Stand for a hook."""


class _NeedsTraining(Exception):
    """The step asks for what only a training has, such as its optimizers."""


class TrainingForward(Callback):
    """Let a validation loop run the forward passes of ``training_step``, without dropout, and average statistics."""

    _state: AbstractContextManager[None] = nullcontext()  # of a pass that has not begun

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._state = averaging(pl_module)
        self._state.__enter__()
        step = pl_module.training_step

        def forward_only(*args: Any, **kwargs: Any) -> None:
            try:
                with without_dropout():
                    step(*args, **kwargs)
            except (CompressError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                raise _NeedsTraining from error

        pl_module.__dict__["validation_step"] = forward_only

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave(pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._leave(pl_module)

    def _leave(self, pl_module: LightningModule) -> None:
        pl_module.__dict__.pop("validation_step", None)
        self._state.__exit__(None, None, None)
        self._state = nullcontext()
