"""Symmetric refit: the outputs that all inputs gave, from the inputs that stay, both of the dense network.

    W' = argmin |W' x_S - W x|^2 + lambda |W' - W_S|^2 = W_S + ((H_SS + lambda I)^-1 H_SD W_D')'

S, D: inputs that stay and that go; H = sum x x' gathered once; lambda: refit.py, which says why the pull is towards the
weights of before. Sources: AMC (arXiv 1802.03494, section 3.3) and He et al. 2017 (arXiv 1707.06168, eq. 3). No forward
pass is needed, so it is cheap enough for every candidate of a search: for up to some hundred channels. Of 512 channels
of 3x3, half of which stay, a candidate takes about a second a layer and 0.2 GB, on one core. Convolutions above
``input_rows.WIDEST`` get one factor per kept channel, linear layers none. It breaks where much was pruned
before a layer, whose real inputs then differ: use Asymmetric.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from lightning import LightningModule
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.pruning.input_moments import KEY, Moments, gather_moments
from lightning_compress.pruning.reconstruction.refit import Refit, correction
from lightning_compress.surgery._torch import own_parameters
from lightning_compress.surgery.calibration import calibration_of
from lightning_compress.surgery.inputs import network_inputs
from lightning_compress.surgery.row_layout import as_rows, weight_rows
from lightning_compress.surgery.structure import network
from lightning_compress.surgery.transforms import WEIGHT


@final
@dataclass(frozen=True)
class Symmetric(Refit):
    """Least squares on the inputs of the dense network.

    Args:
        positions: places of each image that count, or more: see :func:`input_moments.places`.
    """

    positions: int = 10

    @override
    def gather(self, module: LightningModule, batches: Iterable[Any]) -> None:
        if calibration_of(network(module), KEY) is None:
            gather_moments(network(module), network_inputs(module, batches, finite=True), self.positions)

    @torch.no_grad()
    @override
    def before(self, net: nn.Module, inputs: Mapping[str, Tensor]) -> None:
        moments = calibration_of(net, KEY)
        if moments is None:
            raise CompressError(
                "refit: no inputs were gathered for this network; train or search with the callback, or call "
                "input_moments.gather_moments first"
            )
        for name, kept in inputs.items():
            layer = net.get_submodule(name)
            if name in moments:
                weight = weight_rows(layer).clone()
                weight[:, kept[kept < weight.shape[1]]] = refitted(weight, moments[name], kept)
                # Of its own, as the removal makes it anyway: a layer whose inputs stay may hold the old one too.
                own_parameters(layer)[WEIGHT] = nn.Parameter(as_rows(layer, weight), layer.weight.requires_grad)

    def after(self, net: nn.Module, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Do nothing: the kept weights were set before the others were removed."""


def refitted(weight: Tensor, moments: Moments, kept: Tensor) -> Tensor:
    """Return the best weight on the kept inputs, shape ``(out, len(kept) / groups, kernel...)``.

    Args:
        weight: shape ``(out, in / groups, kernel...)``.
        moments: of all inputs.
        kept: which stay, ascending; of a grouped convolution the same places of each group.
    """
    parts, width = moments.by_group(), weight.shape[1]
    if len(parts) > 1:
        own = kept[kept < width]
        pairs = zip(parts, weight.chunk(len(parts)), strict=True)
        return torch.cat([refitted(rows, Moments(part, None, moments.rows), own) for part, rows in pairs])
    gone = torch.ones(weight.shape[1], dtype=torch.bool)
    gone[kept] = False
    gone = gone.nonzero().flatten()
    if moments.features is not None:
        size = weight[0, 0].numel()
        columns, others = ((part[:, None] * size + torch.arange(size)).flatten() for part in (kept, gone))
        cross = moments.features[columns]
        missing = cross[:, others].double() @ weight.double().flatten(1)[:, others].T
        found = correction(cross[:, columns], missing, moments.rows)
        return weight[:, kept] + found.T.reshape(len(weight), len(kept), *weight.shape[2:]).to(weight)
    gram = moments.channel_gram(weight)
    if gram.dim() == 1:
        return weight[:, kept]
    cross = gram[kept]
    factors = 1 + correction(cross[:, kept], cross[:, gone].sum(1, keepdim=True), moments.rows)
    return weight[:, kept] * factors.to(weight).view(1, -1, *[1] * (weight.dim() - 2))
