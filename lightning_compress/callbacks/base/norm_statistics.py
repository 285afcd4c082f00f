"""Re-estimate the statistics of batch norms from train batches (EagleEye, arXiv 2007.02491, section 3).

What removes parts of a network moves the statistics of what is left. A training follows them; where none comes, a pass
over train batches does. They have to be augmented as in the training of the network: statistics of bare images are not
those that its weights were trained with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_compress.callbacks.base.progress import trains_nothing
from lightning_compress.callbacks.base.train_batches import train_batches
from lightning_compress.core.errors import CompressError, first_line
from lightning_compress.surgery import measure
from lightning_compress.surgery._torch import BatchNormBase
from lightning_compress.surgery.inputs import network_inputs
from lightning_compress.surgery.modes import without_dropout
from lightning_compress.surgery.structure import network
from lightning_compress.surgery.transforms import Transform

BATCHES = 20  # at most


def follow_removal(trainer: Trainer, module: LightningModule) -> None:
    """Give batch norms the statistics of a network that has just lost parts, where no training follows.

    A network that cannot be run outside of its step keeps what it has.

    Args:
        trainer: about to fit.
        module: is changed in place; its modes stay.
    """
    norms = (norm for norm in module.modules() if isinstance(norm, BatchNormBase))
    if not trains_nothing(trainer) or not any(norm.track_running_stats for norm in norms):
        return
    modes = {part: part.training for part in module.modules()}
    plugin = trainer.precision_plugin
    try:
        inputs = list(islice(network_inputs(module, train_batches(trainer)), BATCHES))
        if inputs:
            with plugin.forward_context():
                average_statistics(module, map(plugin.convert_input, inputs))
    except CompressError:
        raise
    except Exception as error:  # whatever the network's own forward raises
        rank_zero_warn(
            f"{type(module).__name__} does not run before its training ({first_line(error)}), so its batch norms keep "
            f"the statistics of the network that nothing was removed from; train it, if only for some steps"
        )
    finally:
        for part, mode in modes.items():
            part.training = mode


def average_statistics(module: LightningModule, inputs: Iterable[Any]) -> None:
    """Set the statistics of all batch norms to plain averages over some inputs of the network.

    Args:
        module: is changed in place, and in eval mode afterwards.
        inputs: input batches of its network, made of train data.
    """
    with torch.no_grad(), averaging(module):
        for example in inputs:
            with without_dropout():
                measure.forward(network(module), example)


@contextmanager
def averaging(module: LightningModule) -> Iterator[None]:
    """Set training mode, except for what compresses, with cumulative averages in all batch norms; then eval mode.

    Args:
        module: whose statistics begin anew.
    """
    norms = [(m, m.momentum) for m in module.modules() if isinstance(m, BatchNormBase) and m.track_running_stats]
    module.train()
    for part in module.modules():
        if isinstance(part, Transform):
            part.eval()
    for norm, _ in norms:
        norm.reset_running_stats()
        norm.momentum = None
    try:
        yield
    finally:
        for norm, momentum in norms:
            norm.momentum = momentum
        module.eval()
