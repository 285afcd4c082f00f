"""Random scores: the baseline that a criterion must beat.

    score ~ U(0, 1), the same for the same seed and layer name

Use it to measure what a criterion is worth (Mittal et al. 2018, arXiv 1801.10447, found: little, after long training).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final
from zlib import crc32

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.pruning.criteria.criterion import Criterion
from lightning_compress.surgery.graph.channels import ChannelGroup


@final
@dataclass(frozen=True)
class Random(Criterion):
    """Uniform random scores.

    Args:
        seed: of the scores.
    """

    seed: int = 0

    @override
    def __call__(self, group: ChannelGroup, net: nn.Module) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + crc32(group.name.encode()))
        return torch.rand(group.units, generator=generator)
