"""Gradients of the user's own loss, for criteria that need them, before a training starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning import LightningModule

from lightning_compress.core.errors import CompressError
from lightning_compress.surgery._lightning import on_device
from lightning_compress.surgery._torch import BatchNormBase
from lightning_compress.surgery.dry_run import outside_of_loops
from lightning_compress.surgery.inputs import step_of


def gather_gradients(module: LightningModule, batches: Iterable[Any]) -> None:
    """Leave the sum of the gradients of ``training_step`` over some batches in ``parameter.grad``.

    Buffers, metrics, random numbers and logs stay as they were.

    Raises:
        CompressError: there is no batch, or the module optimizes manually, so that no loss is known.
    """
    if not module.automatic_optimization:
        raise CompressError(
            f"gradients: {type(module).__name__} optimizes manually, so which loss to take the gradients of is not "
            f"known; take a criterion without gradients, such as l2"
        )
    module.zero_grad()
    count = 0
    with outside_of_loops(module, train=True):
        for norm in module.modules():
            if isinstance(norm, BatchNormBase):
                norm.eval()
        for count, batch in enumerate(batches, 1):
            found = step_of(module, "training_step", on_device(module, batch), count - 1)()
            if found is None:  # a batch that the module skips
                continue
            (found["loss"] if isinstance(found, Mapping) else found).backward()
    if not count:
        raise CompressError(f"gradients: there is no train batch to gather gradients of {type(module).__name__} from")
