"""Information: the mean KL of a channel's units under ``InformationDropout``, in nats: what it has to tell.

    score = running mean over units and samples of -log(alpha(x) / 0.7),      0 where the noise is largest

Source: Achille and Soatto 2018 (arXiv 1611.01353, section 4); pruning by it is our reading of paper 1, a
reconstruction. Use it in the stage after training with that noise (``+compress=information``); it breaks when the noise
was too weak or the training too short for channels to differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.pruning.criteria.criterion import Criterion, noises, over_units
from lightning_compress.pruning.noise.information import InformationNoise
from lightning_compress.surgery.graph.channels import ChannelGroup


@final
@dataclass(frozen=True)
class Information(Criterion):
    """Information of the channels of a group.

    Raises:
        CompressError: no layer of the group was trained with ``InformationDropout``.
    """

    @override
    def __call__(self, group: ChannelGroup, net: nn.Module) -> Tensor:
        found = noises(group, net, InformationNoise, "InformationDropout")
        return over_units(group, {name: noise.information for name, noise in found.items()})
