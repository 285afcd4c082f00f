"""Gradients of the user's own loss, for criteria that need them, before a training starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning import LightningModule
from lightning.pytorch.utilities.seed import isolate_rng
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_compress.errors import CompressError


def gather_gradients(module: LightningModule, batches: Iterable[Any]) -> None:
    """Leave the sum of the gradients of ``training_step`` over some batches in ``parameter.grad``.

    Batch statistics, random numbers and logs stay as they were.

    Raises:
        CompressError: there is no batch.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    modes = {m: m.training for m in module.modules()}
    module.zero_grad()
    module.train()
    for norm in norms:
        norm.eval()
    module.log = lambda *_args, **_kwargs: None  # there is no loop yet that could take a log
    count = 0
    try:
        with isolate_rng():
            for count, batch in enumerate(batches, 1):
                batch = module.transfer_batch_to_device(batch, module.device, 0)
                found = module.training_step(batch, count - 1)
                (found if not isinstance(found, dict) else found["loss"]).backward()
    finally:
        del module.log
        for part, mode in modes.items():
            part.training = mode
    if not count:
        raise CompressError(f"gradients: there is no train batch to gather gradients of {type(module).__name__} from")
