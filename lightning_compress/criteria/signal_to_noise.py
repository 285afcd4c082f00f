"""Signal to noise: mean over standard deviation of the noise that ``LogNormalDropout`` found a channel can bear.

Source: Neklyudov et al. 2017 (arXiv 1705.07283, section 3.3), who drop channels below 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from lightning_compress.criteria.criterion import Criterion, noises, over_units
from lightning_compress.graph import ChannelGroup
from lightning_compress.noise.log_normal import LogNormalNoise


@final
@dataclass(frozen=True)
class SignalToNoise(Criterion):
    """SNR of the channels of a group.

    Raises:
        CompressError: no layer of the group was trained with ``LogNormalDropout``.
    """

    def __call__(self, group: ChannelGroup, net: nn.Module) -> Tensor:
        found = noises(group, net, LogNormalNoise, "LogNormalDropout")
        return over_units(group, {name: noise.snr() for name, noise in found.items()})
