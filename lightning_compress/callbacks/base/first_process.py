"""One network in all processes, where each has fitted it to batches of its own."""

from __future__ import annotations

import torch
from lightning import Trainer
from torch import Tensor, nn


@torch.no_grad()
def follow_first_process(trainer: Trainer, net: nn.Module) -> None:
    """Give a network the numbers that it has in the first process.

    Args:
        trainer: whose processes all call this.
        net: is changed in place.
    """
    if trainer.world_size > 1:
        own = {name: value for name, value in net.state_dict().items() if isinstance(value, Tensor)}
        first = trainer.strategy.broadcast({name: value.cpu() for name, value in own.items()})
        for name, value in own.items():
            value.copy_(first[name])
