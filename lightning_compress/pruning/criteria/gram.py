"""Activation Gram: channels whose removal changes the outputs of the layers that read them least.

    err(d) = sum over readers of d' G d / 1' G 1,   G: Gram matrix of the channels' contributions (input_moments.py)

The rank of a channel is when backward elimination on G drops it, so that correlated channels are not all kept or all
dropped. Sources: papers 1 and 2 (arXiv 1912.02254, 1805.11394; the closed form is a reconstruction), ThiNet (arXiv
1707.06342) for the criterion. Needs train batches, gathered once. Use it with a refit: that matters more than the
choice. It breaks where the gathered batches are few or unlike the data: it then ranks what they happened to show.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

import torch
from lightning import LightningModule
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.pruning.criteria.criterion import Criterion
from lightning_compress.pruning.criteria.l2 import L2
from lightning_compress.pruning.input_moments import KEY, gather_moments, removal_order
from lightning_compress.surgery.calibration import calibration_of
from lightning_compress.surgery.graph.channels import ChannelGroup
from lightning_compress.surgery.inputs import network_inputs
from lightning_compress.surgery.row_layout import weight_rows
from lightning_compress.surgery.structure import network


@final
@dataclass(frozen=True)
class Gram(Criterion):
    """The place in backward elimination, from 0 for the first channel to go; L2 where no reader's inputs are known.

    Args:
        positions: places of each image that count.

    Raises:
        CompressError: no inputs were gathered.
    """

    positions: int = 10

    @override
    def gather(self, module: LightningModule, batches: Iterable[Any]) -> None:
        if calibration_of(network(module), KEY) is None:
            gather_moments(network(module), network_inputs(module, batches, finite=True), self.positions)

    @override
    def __call__(self, group: ChannelGroup, net: nn.Module) -> Tensor:
        moments = calibration_of(net, KEY)
        if moments is not None and not any(m.layer in moments for m in group.readers):
            return L2()(group, net)
        gram = unit_gram(group, net)
        scores = torch.empty(group.units)
        scores[torch.tensor(removal_order(gram))] = torch.arange(group.units, dtype=torch.float32)
        return scores


def unit_gram(group: ChannelGroup, net: nn.Module) -> Tensor:
    """Return G over the units of a group, summed over the layers that read it, each scaled to total error 1.

    Returns:
        Shape ``(units, units)``, or ``(units,)`` where a wide linear layer knows only its diagonal.
    """
    moments = calibration_of(net, KEY)
    if moments is None:
        raise CompressError("Gram: no inputs were gathered; use the callback in a Trainer or a search, or take l2")
    found = []
    for member in group.readers:
        if member.layer in moments:
            gram = moments[member.layer].channel_gram(weight_rows(net.get_submodule(member.layer)))
            index = member.index
            if gram.dim() == 1:
                found.append(gram[index].sum(1) / gram.sum().clamp_min(1e-30))
            else:
                blocks = gram[index.flatten()][:, index.flatten()].view(len(index), index.shape[1], len(index), -1)
                found.append(blocks.sum((1, 3)) / gram.sum().abs().clamp_min(1e-30))
    if not found:
        raise CompressError(f"Gram: no layer whose inputs were gathered reads the channels of {group.name!r}; use l2")
    if any(gram.dim() == 1 for gram in found):
        return sum(gram if gram.dim() == 1 else gram.diagonal() for gram in found)
    return sum(found)
