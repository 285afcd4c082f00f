"""Asymmetric refit: the outputs of the dense network, from the inputs that the thin network really has.

    W' = argmin |W' x~ - W x|^2,      x~: inputs after everything before the layer was pruned and refitted

Sources: He et al. 2017 (arXiv 1707.06168, section 3.2), Hu et al. 2018 (paper 2, arXiv 1805.11394; that it is
asymmetric is a reconstruction). Layers are refitted in the order in which they run, each with a forward pass of both
networks, so a candidate takes about as many passes as it has layers. Layers wider than moments.WIDEST keep their
weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from lightning import LightningModule
from torch import Tensor, nn

from lightning_compress import trace
from lightning_compress.batches import first_inputs
from lightning_compress.errors import CompressError
from lightning_compress.gathered import gathered, keep
from lightning_compress.moments import WIDEST, sampled_rows, supported
from lightning_compress.record import network
from lightning_compress.refits.refit import Refit, solve

KEY = "calibration"


@final
@dataclass(frozen=True)
class Asymmetric(Refit):
    """Least squares on the inputs of the thin network.

    Args:
        positions: places of each image that count.
    """

    positions: int = 10

    def gather(self, module: LightningModule, batches: Iterable[Any]) -> None:
        net = network(module)
        if gathered(net, KEY) is None:
            inputs = list(first_inputs(module, batches))
            keep(net, KEY, (copy.deepcopy(net).eval().requires_grad_(False), inputs))

    def before(self, net: nn.Module, inputs: Mapping[str, Tensor]) -> None:
        """Nothing: it is the thin network's inputs that count."""

    @torch.no_grad()
    def after(self, net: nn.Module, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        found = gathered(net, KEY)
        if found is None:
            raise CompressError("refit: no batches were gathered for this network; train or search with the callback")
        dense, batches = found
        for name in inputs:
            layer = net.get_submodule(name)
            if supported(layer) and layer.weight[0].numel() <= WIDEST:
                target = dense.get_submodule(name).weight.double().flatten(1)
                target = target[outputs[name]] if name in outputs else target
                moments, cross = 0.0, 0.0
                for number, x in enumerate(batches):
                    thin, full = (self._rows(n, name, x, number) for n in (net, dense))
                    moments, cross = moments + thin.T @ thin, cross + thin.T @ (full @ target.T)
                layer.weight.copy_(solve(moments, cross).T.reshape(layer.weight.shape))

    def _rows(self, net: nn.Module, name: str, x: Any, seed: int) -> Tensor:
        """What the layer of a network reads at the same places for each network."""
        layer, found = net.get_submodule(name), []
        handle = layer.register_forward_pre_hook(lambda _layer, args: found.append(args[0]))
        trace.run_hooked(net, x, [handle])
        return sampled_rows(layer, found[0], self.positions, torch.Generator().manual_seed(seed)).double()
