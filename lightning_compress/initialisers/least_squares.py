"""Least squares: the layer behind removed ones gives what it gave before, as well as its new inputs allow.

    W' = argmin |W' x~ - W x|^2,      x: inputs in the dense network, x~: in the student

A reconstruction: N2N (arXiv 1709.06030) starts students anew; this is the asymmetric refit of channel pruning
(refits/asymmetric.py), used where inputs were exchanged rather than dropped. Readers wider than ``moments.WIDEST``, and
those with groups, start from their own random initialisation. It breaks where several removed layers were doing what
no linear map can do: then the student still has to be trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, final

import torch
from lightning import LightningModule
from torch import nn

from lightning_compress.initialisers.inherit import Inherit
from lightning_compress.initialisers.initialiser import Initialiser
from lightning_compress.refits.asymmetric import Asymmetric


@final
@dataclass(frozen=True)
class LeastSquares(Initialiser):
    """A closed-form fit of each layer behind removed ones; all others keep their weights.

    Args:
        batches: train batches that it sees.
        positions: places of each image that count.

    Raises:
        CompressError: when called on a network for which nothing was gathered.
    """

    batches: int = 8
    positions: int = 10

    def gather(self, module: LightningModule, batches: Iterable[Any]) -> None:
        Asymmetric(self.positions).gather(module, islice(batches, self.batches))

    def __call__(self, net: nn.Module, readers: Mapping[str, bool]) -> None:
        Inherit()(net, readers)
        if readers:
            inputs = {name: torch.arange(net.get_submodule(name).weight.shape[1]) for name in readers}
            Asymmetric(self.positions).after(net, inputs, {})
