"""What of a batch goes into the network: of a tuple, list or dict the first entry, as in ``x, y = batch``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lightning import LightningModule
from torch import Tensor

from lightning_compress.errors import CompressError


def first_tensor(batch: Any) -> Tensor | None:
    """The first tensor of a batch: the ``x`` of ``x, y = batch``; None when there is none."""
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, dict):
        batch = list(batch.values())
    return first_tensor(batch[0]) if isinstance(batch, (list, tuple)) and len(batch) else None


def on_device(module: LightningModule, batch: Any) -> Any:
    """A batch as the module's steps get it: on its device, through its hooks and those of its Trainer's data."""
    return module._apply_batch_transfer_handler(module._on_before_batch_transfer(batch))


def first_inputs(module: LightningModule, batches: Iterable[Any]) -> Iterator[Tensor]:
    """The first tensor of each batch, as the module's steps get it.

    Raises:
        CompressError: a tensor has a value that is not finite.
    """
    for number, batch in enumerate(batches):
        found = first_tensor(on_device(module, batch))
        if found is not None and not found.isfinite().all():
            raise CompressError(f"data: the inputs of train batch {number} are not finite; clean the data")
        yield found
