"""Run a network on train batches before its training, so that quantizers see what they will see in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from lightning_compress.callbacks.base.train_batches import train_batches
from lightning_compress.core.errors import first_line
from lightning_compress.surgery import measure
from lightning_compress.surgery.inputs import network_inputs
from lightning_compress.surgery.structure import network

BATCHES, ROWS = 8, 512  # at most so many batches, and no more of them once so many rows were seen


@contextmanager
def as_in_training(net: nn.Module) -> Iterator[None]:
    """Run a network as its training will, without a trace: no gradients, nothing random, and all state put back.

    Batch norms use the statistics that they will use in training; everything else is in eval mode.
    """
    norms = [m for m in net.modules() if isinstance(m, (*measure.BATCH_NORM, nn.SyncBatchNorm)) and m.training]
    state = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    with measure.evaluating(net):
        for norm in norms:
            norm.train()
        try:
            yield
        finally:
            for buffer, value in state:
                buffer.copy_(value)


def calibration_pass(trainer: Trainer, module: LightningModule) -> list[Any]:
    """Run the network of a module on the first train batches.

    A network that cannot be run outside of its step is left to see its first inputs in training.

    Returns:
        The inputs that it ran on, as its precision wants them.
    """
    rows, plugin, net, seen = 0, trainer.precision_plugin, network(module), list[Any]()
    try:
        for number, example in enumerate(network_inputs(module, train_batches(trainer)), 1):
            if measure.samples_in(example):
                with as_in_training(net), plugin.forward_context():
                    seen.append(plugin.convert_input(example))
                    measure.forward(net, seen[-1])
            rows += measure.samples_in(example)
            if number >= BATCHES or rows >= ROWS:
                break
    except Exception as error:  # whatever the network's own forward raises
        rank_zero_info(
            f"{type(net).__name__} does not run before its training ({first_line(error)}); it calibrates in its "
            f"first steps"
        )
        return []
    return seen
