"""Hold what Lightning has no public name for: nothing else in the package reads a private attribute of Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    return module._apply_batch_transfer_handler(module._on_before_batch_transfer(batch))


def averages_buffers(callback: Any) -> bool:
    """Return whether a ``WeightAveraging`` callback averages buffers too."""
    return callback._use_buffers
