"""Asymmetric refit: the outputs of the dense network, from the inputs that the thin network really has.

    W' = argmin |W' x~ - W x|^2 + lambda |W' - W~|^2,      x~: inputs after all before the layer was pruned and refitted

W~: the weight that the thin network has; lambda and why: refit.py. Sources: He et al. 2017 (arXiv 1707.06168, section
3.2), Hu et al. 2018 (paper 2, arXiv 1805.11394; that it is asymmetric is a reconstruction). Layers are refitted in the
order in which they run, each with a forward pass of both networks, so a candidate takes about as many passes as it has
layers, and a layer of thousands of features some seconds more: in a search over such networks use Symmetric. Memory is
that of one layer's moments at a time (input_moments.py). Layers wider than ``input_moments.WIDEST`` keep their
weights. It breaks where early layers lost so much that their errors are all that later ones are fitted to.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from lightning import LightningModule
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.pruning.input_moments import refittable
from lightning_compress.pruning.reconstruction.refit import Refit, correction
from lightning_compress.surgery import measure
from lightning_compress.surgery.calibration import calibration_of, store_calibration
from lightning_compress.surgery.input_rows import added, groups_of, places, sampled_rows
from lightning_compress.surgery.inputs import network_inputs
from lightning_compress.surgery.matrices import argument
from lightning_compress.surgery.row_layout import as_rows, weight_rows
from lightning_compress.surgery.structure import network

KEY = "calibration"


@final
@dataclass(frozen=True)
class Asymmetric(Refit):
    """Least squares on the inputs of the thin network.

    Args:
        positions: places of each image that count, or more: see :func:`input_rows.places`.
    """

    positions: int = 10

    @override
    def gather(self, module: LightningModule, batches: Iterable[Any]) -> None:
        net = network(module)
        if calibration_of(net, KEY) is None:
            inputs = list(network_inputs(module, batches, finite=True))
            if not sum(map(measure.samples_in, inputs)):
                raise CompressError(f"refit: there is no train batch to gather inputs of {type(net).__name__} from")
            store_calibration(net, KEY, (copy.deepcopy(net).eval().requires_grad_(False), inputs))

    def before(self, net: nn.Module, inputs: Mapping[str, Tensor]) -> None:
        """Do nothing: the pruned network's inputs count."""

    @torch.no_grad()
    @override
    def after(self, net: nn.Module, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        found = calibration_of(net, KEY)
        if found is None:
            raise CompressError("refit: no batches were gathered for this network; train or search with the callback")
        dense, batches = found
        for name in inputs:
            layer = net.get_submodule(name)
            if refittable(layer, net):
                target = weight_rows(dense.get_submodule(name)).flatten(1)
                target = target[outputs[name]] if name in outputs else target
                count = places(layer, self.positions, sum(map(measure.samples_in, batches)))
                _fit(layer, target, _both_rows(net, dense, name, batches, count))


def _fit(layer: nn.Module, target: Tensor, seen: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Set the weight of a layer by least squares, group by group of a grouped convolution.

    Args:
        layer: of the thin network.
        target: its weight in the dense network, a row for each output that stays.
        seen: rows of each call in the thin and in the dense network.
    """
    groups, count, rows = groups_of(layer), 0, weight_rows(layer)
    moments: list[Tensor | None] = [None] * groups
    missing: list[Tensor | None] = [None] * groups
    for thin, full in seen:
        count += len(thin)
        parts = (
            thin.chunk(groups, 1),
            full.chunk(groups, 1),
            rows.flatten(1).chunk(groups),
            target.chunk(groups),
        )
        for g, (x, dense, weight, wanted) in enumerate(zip(*parts, strict=True)):
            lacking = dense.double() @ wanted.T.double() - x.double() @ weight.T.double()
            moments[g], missing[g] = added(moments[g], x, x), added(missing[g], x, lacking)
    found = [
        correction(h, m, count).T for h, m in zip(moments, missing, strict=True) if h is not None and m is not None
    ]
    if found:
        layer.weight.add_(as_rows(layer, torch.cat(found).reshape(rows.shape)))


def _both_rows(
    net: nn.Module, dense: nn.Module, name: str, batches: Iterable[Any], count: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows of each call in two networks, of batches that both run the layer on in the same way."""
    for number, x in enumerate(batches):
        thin, full = (_rows(each, name, x, count, number) for each in (net, dense))
        if list(map(len, thin)) == list(map(len, full)):
            yield from zip(thin, full, strict=True)


def _rows(net: nn.Module, name: str, x: Any, count: int, seed: int) -> list[Tensor]:
    """Return the rows that each call of a layer reads at ``count`` positions, the same for each network."""
    layer, generator, found = net.get_submodule(name), torch.Generator().manual_seed(seed), list[Tensor]()

    def read(_layer: nn.Module, args: Any, kwargs: Any) -> None:  # at once: what comes later may work in place
        found.append(sampled_rows(layer, argument(args, kwargs, 0, "input"), count, generator))

    measure.forward_hooked(net, x, [layer.register_forward_pre_hook(read, with_kwargs=True)])
    return found
