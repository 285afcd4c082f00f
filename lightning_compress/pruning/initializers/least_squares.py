"""Least squares: the layers that read what was removed give what they gave before, as well as their new inputs allow.

    W' = argmin |W' x~ - W x|^2 + lambda |W' - W~|^2,      x: inputs in the dense network, x~: in the student

W~: what the layer has, which is zero where it got narrower; lambda: refits/refit.py. A reconstruction: N2N (arXiv
1709.06030) starts students anew; this is the asymmetric refit of channel pruning (refits/asymmetric.py), used where
inputs were exchanged rather than dropped. Readers that it cannot set (grouped ones, those that share their weight with
another layer, and ``input_moments.refittable``) start from their own random initialization where they got narrower, and
keep their weights elsewhere. It breaks where several removed layers were doing what no linear map can do: then the
student still has to be trained. Each reader (block_readers.py) takes a forward pass of both networks for each batch:
for a search over many blocks use Inherit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, final

import torch
from lightning import LightningModule
from torch import nn
from typing_extensions import override

from lightning_compress.pruning.initializers.inherit import Inherit
from lightning_compress.pruning.initializers.initializer import Initializer
from lightning_compress.pruning.input_moments import refittable
from lightning_compress.pruning.reconstruction.asymmetric import Asymmetric
from lightning_compress.surgery.input_rows import groups_of


@final
@dataclass(frozen=True)
class LeastSquares(Initializer):
    """A closed-form fit of each layer that reads what was removed; all others keep their weights.

    Args:
        batches: train batches that it sees.
        positions: places of each image that count, or more: see :func:`input_rows.places`.

    Raises:
        CompressError: when called on a network for which nothing was gathered.
    """

    batches: int = 8
    positions: int = 10

    @override
    def gather(self, module: LightningModule, batches: Iterable[Any]) -> None:
        Asymmetric(self.positions).gather(module, islice(batches, self.batches))

    @override
    def __call__(self, net: nn.Module, readers: Mapping[str, bool]) -> None:
        modules = {name: net.get_submodule(name) for name in readers}
        fitted = [name for name, module in modules.items() if refittable(module, net) and groups_of(module) == 1]
        Inherit()(net, {name: narrower for name, narrower in readers.items() if name not in fitted})
        if fitted:
            inputs = {name: torch.arange(net.get_submodule(name).weight.shape[1]) for name in fitted}
            Asymmetric(self.positions).after(net, inputs, {})
