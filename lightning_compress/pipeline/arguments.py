"""Arguments of a run in the form it needs: loaders as a data module, the network by its name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.structure import SELECTED, network
from lightning_compress.surgery.tensors import map_tensors

Loader = Iterable[Any]


class Loaders(LightningDataModule):
    """Serve loaders that are made already.

    Args:
        train, val, test: a loader, or several as Lightning takes them.
    """

    def __init__(self, train: Loader, val: Loader, test: Loader) -> None:
        super().__init__()
        self.train, self.val, self.test = train, val, test

    @override
    def train_dataloader(self) -> Loader:
        return self.train

    @override
    def val_dataloader(self) -> Loader:
        return self.val

    @override
    def test_dataloader(self) -> Loader:
        return self.test


def as_data_module(
    data: LightningDataModule | Loader | None,
    train: Loader | None = None,
    val: Loader | None = None,
    test: Loader | None = None,
) -> LightningDataModule:
    """Return a data module of what was given.

    Args:
        data: a data module, or the loader of train data.
        train, val, test: loaders.

    Raises:
        CompressError: a loader is missing, or there are a data module and loaders.
    """
    given = {"train": train, "val": val, "test": test}
    if isinstance(data, LightningDataModule):
        both = [name for name, loader in given.items() if loader is not None]
        if both:
            raise CompressError(f"compress: {type(data).__name__} is given, and {both[0]}= too; leave one of them out")
        return data
    if data is not None and train is not None:
        raise CompressError("compress: train data is given twice, by position and as train=; leave one of them out")
    given["train"] = data if train is None else train
    missing = [name for name, loader in given.items() if loader is None]
    if missing:
        raise CompressError(
            f"compress: data is no LightningDataModule, and there is no {missing[0]} loader; pass "
            f"{', '.join(f'{name}=' for name in missing)} beside it, or a LightningDataModule with all loaders"
        )
    return Loaders(**{name: loader for name, loader in given.items() if loader is not None})


def selecting(module: LightningModule, name: str | None) -> LightningModule:
    """Return a copy of a module whose network is the sub-module of that name; the module itself for None.

    Raises:
        CompressError: there is no such sub-module.
    """
    if name is None:
        return module
    module = clone(module)
    setattr(module, SELECTED, name)
    network(module)
    return module


def in_single_precision(module: LightningModule) -> LightningModule:
    """Return a copy in fp32 of a module of half or double precision; one that is in fp32 as it is.

    Candidates are scored, and files are written, in fp32; a Trainer of ``bf16-true`` converts what it trains by itself.
    """
    types = {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}
    if len(types) != 1 or types == {torch.float32}:
        return module
    module, example = clone(module).float(), module.example_input_array
    if example is not None:
        module.example_input_array = map_tensors(_single, example)
    return module


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
