"""Hold what Lightning has no public name for: nothing else in the package reads a private attribute of Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.strategies import DDPStrategy

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return the callbacks of a Trainer, in their order; Lightning declares no such attribute."""
    return trainer.callbacks  # type: ignore[attr-defined]


def loaders_of(loop: Any) -> Any | None:
    """Return the loaders of a Trainer's loop before it starts; ``None`` where it has none.

    Args:
        loop: one of ``trainer.fit_loop``, ``validate_loop``, ``test_loop`` and ``predict_loop``.
    """
    source = loop._data_source
    return source.dataloader() if source.instance is not None and source.is_defined() else None


def on_device(module: LightningModule, batch: Any) -> Any:
    """Return a batch as the module's steps get it: on its device, through its hooks and those of its Trainer's data."""
    return module._apply_batch_transfer_handler(module._on_before_batch_transfer(in_precision(module, batch)))


def in_precision(module: LightningModule, batch: Any) -> Any:
    """Return a batch in the precision of the Trainer, where the module has it: Lightning converts that after ``setup``.

    Args:
        module: of a first training it is still in single precision, of a later one in ``bf16-true``, for example.
        batch: or an input.
    """
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.get_default_dtype())
    if module._trainer is None or dtype == torch.get_default_dtype():
        return batch
    return module._trainer.precision_plugin.convert_input(batch)


def needs_all_gradients(trainer: Trainer) -> bool:
    """Return whether each step must give every parameter a gradient: in DDP, unless it looks for those without."""
    strategy = trainer.strategy
    return isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters", False)


def averages_buffers(callback: Any) -> bool:
    """Return whether a ``WeightAveraging`` callback averages buffers too."""
    return callback._use_buffers
