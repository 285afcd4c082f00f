"""Finding one input batch of a user's network, which tracing its graph and its shapes needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_compress.batches import combined, first_inputs, small
from lightning_compress.errors import CompressError


def example_input(trainer: Trainer, module: LightningModule) -> Any:
    """One small batch for ``network(module)``: the module's ``example_input_array``, else from the train data.

    Of a batch that is a tuple, list or dict the first entry is taken, as in ``x, y = batch``.

    Raises:
        CompressError: there is neither an example nor train data that holds a tensor.
    """
    example = module.example_input_array
    if example is None:
        example = next(first_inputs(module, train_batches(trainer)), None)
    if example is None:
        raise CompressError(
            f"no example input was found for {type(module).__name__}: set its example_input_array to a batch that its "
            f"network accepts (for example torch.zeros(2, 3, 32, 32))"
        )
    return small(example)


def train_batches(trainer: Trainer) -> Iterator[Any]:
    """The batches that the first loop with data would see, train before validation before test.

    Of several loaders for training they are what ``training_step`` gets, one batch of each. Reading them moves none of
    the random numbers of the training that follows.
    """
    loops = (trainer.fit_loop, trainer.validate_loop, trainer.test_loop, trainer.predict_loop)
    for loop in loops:
        source = loop._data_source  # Lightning has no public way to the loaders before the loop starts
        if source.instance is not None and source.is_defined():
            with isolate_rng():
                mode = "max_size_cycle" if loop is trainer.fit_loop else "sequential"  # Lightning's own
                yield from combined(source.dataloader(), mode)
            return
