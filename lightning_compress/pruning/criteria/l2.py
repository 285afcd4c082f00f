"""L2 norm of the weights that make a channel: sqrt(sum w^2) over its kernel.

Source: He et al. 2018 (arXiv 1808.06866, section 3.2). Cheap and hard to beat at moderate ratios. It breaks
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
class L2(Criterion):
    """The Euclidean size of a channel's weights."""

    @override
    def __call__(self, group: ChannelGroup, net: nn.Module) -> Tensor:
        weights = producer_weights(group, net)
        return over_units(group, {n: w.detach().square().flatten(1).sum(1).sqrt() for n, w in weights.items()})
