"""What of a batch goes into the network: of a tuple, list or dict the first entry, as in ``x, y = batch``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lightning import LightningModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils._pytree import tree_map

from lightning_compress.core.errors import CompressError

SAMPLES = 2  # batch norms of 1x1 maps need more than one, and no figure depends on how many


def first_tensor(batch: Any) -> Tensor | None:
    """The first tensor of a batch: the ``x`` of ``x, y = batch``; None when there is none."""
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, dict):
        batch = list(batch.values())
    return first_tensor(batch[0]) if isinstance(batch, (list, tuple)) and len(batch) else None


def small(example: Any, samples: int = SAMPLES) -> Any:
    """The first samples of an input batch: a tensor, or a tuple or dict of such."""
    return tree_map(lambda leaf: leaf[:samples] if isinstance(leaf, Tensor) else leaf, example)


def combined(loaders: Any, mode: str = "min_size") -> Iterable[Any]:
    """The batches of a loader, or of several as Lightning combines them.

    Args:
        loaders: one, or a list, tuple or dict of them, or Lightning's ``CombinedLoader``.
        mode: of ``CombinedLoader``, where they are not combined yet.
    """
    if not isinstance(loaders, list | tuple | dict | CombinedLoader):
        return loaders
    if not isinstance(loaders, CombinedLoader):
        loaders = CombinedLoader(loaders, mode)
    return (batch for batch, *_ in loaders)


def on_device(module: LightningModule, batch: Any) -> Any:
    """A batch as the module's steps get it: on its device, through its hooks and those of its Trainer's data."""
    return module._apply_batch_transfer_handler(module._on_before_batch_transfer(batch))


def example_of(module: LightningModule, batches: Iterable[Any]) -> Any:
    """One small input batch: the module's ``example_input_array``, else the first tensor of the first batch.

    Args:
        batches: are not read where the module has an example.

    Raises:
        CompressError: there is neither.
    """
    example = module.example_input_array
    if example is None:
        example = next(first_inputs(module, batches), None)
    if example is None:
        raise CompressError(
            f"no example input was found for {type(module).__name__}: set its example_input_array to a batch that its "
            f"network accepts (for example torch.zeros(2, 3, 32, 32))"
        )
    return small(example)


def first_inputs(module: LightningModule, batches: Iterable[Any]) -> Iterator[Tensor]:
    """The first tensor of each batch, as the module's steps get it.

    Raises:
        CompressError: a tensor has a value that is not finite, or the network has other inputs beside it.
    """
    example = module.example_input_array
    if isinstance(example, tuple | dict) and len(example) > 1:
        raise CompressError(
            f"data: {type(module).__name__} has {len(example)} inputs, as its example_input_array says, and which "
            f"parts of a batch they are is not known; use what needs no batches: l2 or taylor for channels, no refit, "
            f"the initializer inherit"
        )
    for number, batch in enumerate(batches):
        found = first_tensor(on_device(module, batch))
        if found is not None and not found.isfinite().all():
            raise CompressError(f"data: the inputs of train batch {number} are not finite; clean the data")
        yield found
