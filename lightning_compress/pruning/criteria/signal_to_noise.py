"""Signal to noise: mean over standard deviation of the noise that ``LogNormalDropout`` found a channel can bear.

    score = E[e] / sqrt(Var[e]),      e: the log-normal noise of the channel (noise/log_normal.py)

A unit is worth what the best of its channels is. Source: Neklyudov et al. 2017 (arXiv 1705.07283, section 3.3), who
drop channels below 1: with ``threshold=1`` and a plan that keeps all, how many stay is what the training found. Use it
in a stage after ``LogNormalDropout``; it breaks, with an error, on groups that had no noise, and after a training too
short for the noise to part the channels ranks them by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.pruning.criteria.criterion import Criterion, noises, producer_weights
from lightning_compress.pruning.noise.log_normal import LogNormalNoise
from lightning_compress.surgery.graph.channels import ChannelGroup


@final
@dataclass(frozen=True)
class SignalToNoise(Criterion):
    """SNR of the channels of a group.

    Args:
        threshold: units below it are dropped, whatever the plan keeps; 0 leaves that to the plan.

    Raises:
        CompressError: no layer of the group was trained with ``LogNormalDropout``.
    """

    threshold: float = 0.0

    @override
    def __call__(self, group: ChannelGroup, net: nn.Module) -> Tensor:
        found = noises(group, net, LogNormalNoise, "LogNormalDropout")
        return torch.stack([found[m.layer].snr()[m.index].amax(1) for m in group.producers if m.layer in found]).amax(0)

    @override
    def most(self, group: ChannelGroup, net: nn.Module) -> int:
        if self.threshold <= 0:
            return group.units
        if len(noises(group, net, LogNormalNoise, "LogNormalDropout")) < len(producer_weights(group, net)):
            return group.units  # a layer that makes these channels had no noise: nothing is known of what it tells
        return max(1, int((self(group, net) >= self.threshold).sum()))
