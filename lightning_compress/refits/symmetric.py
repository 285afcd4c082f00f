"""Symmetric refit: the outputs that all inputs gave, from the inputs that stay, both of the dense network.

    W' = argmin |W' x_S - W x|^2 = (H_SS)^-1 H_S: W',      H = sum x x' gathered once

Sources: AMC (arXiv 1802.03494, section 3.3) and He et al. 2017 (arXiv 1707.06168, eq. 3). No forward pass is needed, so
it is cheap enough for every candidate of a search. Wide convolutions (see moments.py) get one factor per kept channel,
wide linear layers none. It breaks where much was pruned before a layer, whose real inputs then differ: use Asymmetric.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from lightning import LightningModule
from torch import Tensor, nn

from lightning_compress.batches import first_inputs
from lightning_compress.errors import CompressError
from lightning_compress.gathered import gathered
from lightning_compress.moments import KEY, Moments, gather_moments
from lightning_compress.record import network
from lightning_compress.refits.refit import Refit, solve


@final
@dataclass(frozen=True)
class Symmetric(Refit):
    """Least squares on the inputs of the dense network.

    Args:
        positions: places of each image that count.
    """

    positions: int = 10

    def gather(self, module: LightningModule, batches: Iterable[Any]) -> None:
        if gathered(network(module), KEY) is None:
            gather_moments(network(module), first_inputs(module, batches), self.positions)

    @torch.no_grad()
    def before(self, net: nn.Module, inputs: Mapping[str, Tensor]) -> None:
        moments = gathered(net, KEY)
        if moments is None:
            raise CompressError(
                "refit: no inputs were gathered for this network; train or search with the callback, or call "
                "moments.gather_moments first"
            )
        for name, kept in inputs.items():
            layer = net.get_submodule(name)
            if name in moments:
                layer.weight[:, kept] = refitted(layer.weight, moments[name], kept)

    def after(self, net: nn.Module, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Nothing: the weights that stay were set before the others were removed."""


def refitted(weight: Tensor, moments: Moments, kept: Tensor) -> Tensor:
    """The best weight on the kept inputs, shape ``(out, len(kept), kernel...)``."""
    if moments.features is not None:
        size = weight[0, 0].numel()
        columns = (kept[:, None] * size + torch.arange(size)).flatten()
        target = moments.features[columns] @ weight.double().flatten(1).T
        found = solve(moments.features[columns][:, columns], target)
        return found.T.reshape(len(weight), len(kept), *weight.shape[2:]).to(weight)
    if moments.gram.dim() == 1:
        return weight[:, kept]
    factors = solve(moments.gram[kept][:, kept], moments.gram[kept].sum(1, keepdim=True))
    return weight[:, kept] * factors.to(weight).view(1, -1, *[1] * (weight.dim() - 2))
