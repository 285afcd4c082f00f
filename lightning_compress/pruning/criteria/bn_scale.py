"""Size of the batch-norm scale of a channel: |gamma|.

Source: Network Slimming, Liu et al. 2017 (arXiv 1708.06519, section 3). Best after training with an L1 penalty on the
scales. It breaks where channels go through no batch norm: an error names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.pruning.criteria.criterion import Criterion, norm_scales, over_units
from lightning_compress.surgery.graph.channels import ChannelGroup


@final
@dataclass(frozen=True)
class BNScale(Criterion):
    """The absolute scale that batch norm gives a channel."""

    @override
    def __call__(self, group: ChannelGroup, net: nn.Module) -> Tensor:
        return over_units(group, {name: scale.detach().abs() for name, scale in norm_scales(group, net).items()})
