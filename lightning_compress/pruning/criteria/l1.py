"""L1 norm of the weights that make a channel: sum |w| over its kernel.

Source: Li et al. 2017 (arXiv 1608.08710, section 3.1). Cheap and hard to beat at moderate ratios. It breaks
where weights are small because a batch norm behind them scales up: use bn_scale there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.pruning.criteria.criterion import Criterion, over_units, producer_weights
from lightning_compress.surgery.graph.channels import ChannelGroup


@final
@dataclass(frozen=True)
class L1(Criterion):
    """The absolute size of a channel's weights."""

    @override
    def __call__(self, group: ChannelGroup, net: nn.Module) -> Tensor:
        weights = producer_weights(group, net)
        return over_units(group, {n: w.detach().abs().flatten(1).sum(1) for n, w in weights.items()})
