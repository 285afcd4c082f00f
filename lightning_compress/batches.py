"""What of a batch goes into the network: of a tuple, list or dict the first entry, as in ``x, y = batch``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lightning import LightningModule
from torch import Tensor


def first_tensor(batch: Any) -> Tensor | None:
    """The first tensor of a batch: the ``x`` of ``x, y = batch``; None when there is none."""
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, dict):
        batch = list(batch.values())
    return first_tensor(batch[0]) if isinstance(batch, (list, tuple)) and len(batch) else None


def first_inputs(module: LightningModule, batches: Iterable[Any]) -> Iterator[Tensor]:
    """The first tensor of each batch, on the module's device."""
    for number, batch in enumerate(batches):
        yield first_tensor(module.transfer_batch_to_device(batch, module.device, number))
