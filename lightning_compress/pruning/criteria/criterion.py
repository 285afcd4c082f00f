"""Base class of channel criteria: a group of coupled channels -> a score for each unit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from lightning import LightningModule
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError
from lightning_compress.core.kinds import HasKind
from lightning_compress.pruning.noise.noise import Noise
from lightning_compress.surgery._torch import BatchNormBase, ConvBase, own_children
from lightning_compress.surgery.graph.channels import ChannelGroup
from lightning_compress.surgery.matrices import PROJECTIONS
from lightning_compress.surgery.row_layout import weight_rows
from lightning_compress.surgery.transforms import output_transform


class Criterion(HasKind, ABC):
    """Scores units; the lowest are removed."""

    def gather(self, module: LightningModule, batches: Iterable[Any]) -> None:
        """Keep on the network what the criterion needs to know of the data; most need nothing.

        Args:
            module: dense, with its trained weights.
            batches: of train data.
        """
        return

    @abstractmethod
    def __call__(self, group: ChannelGroup, net: nn.Module) -> Tensor:
        """Return scores of zero or more, shape ``(units,)``."""

    def most(self, group: ChannelGroup, net: nn.Module) -> int:
        """Return units worth keeping, at least one: a plan that keeps more is rounded down to that."""
        return group.units

    def kept(self, group: ChannelGroup, net: nn.Module, count: int) -> Tensor:
        """Return rising indices of the units to keep, shape ``(count,)``: those with the highest scores.

        One that weighs whole sets of units against each other overrides this.
        """
        # A stable sort, so that equal scores give the same channels everywhere.
        best = torch.sort(self(group, net), descending=True, stable=True).indices
        return best[:count].sort().values


def over_units(group: ChannelGroup, per_channel: dict[str, Tensor]) -> Tensor:
    """Return the mean over producers, each scaled to mean 1, of the sums of channel scores in a unit.

    Layers of a group differ in fan-in and so in the size of their weights; unscaled, the largest would decide alone.

    Args:
        group: coupled channels.
        per_channel: producer -> a score for each output channel.

    Returns:
        Shape ``(units,)``.
    """
    scores = []
    for member in group.producers:
        if member.layer in per_channel:
            found = per_channel[member.layer][member.index].sum(1)
            scores.append(found / found.mean().clamp_min(torch.finfo(found.dtype).tiny))
    return torch.stack(scores).mean(0)


def producer_weights(group: ChannelGroup, net: nn.Module) -> dict[str, Tensor]:
    """Name -> weight of what makes the channels of a group, outputs first: layers, and the matrix of attention."""
    found = {}
    for member in group.producers:
        if not _is_module(net, member.layer):
            parent, _, key = member.layer.rpartition(".")
            if key in PROJECTIONS and member.dim == 0:
                found[member.layer] = getattr(net.get_submodule(parent), key)
        elif isinstance(module := net.get_submodule(member.layer), (ConvBase, nn.Linear)):
            found[member.layer] = weight_rows(module)
    return found


NoiseT = TypeVar("NoiseT", bound=Noise)


def noises(group: ChannelGroup, net: nn.Module, kind: type[NoiseT], callback: str) -> dict[str, NoiseT]:
    """Name -> learned noise on the outputs of a group's producers.

    Raises:
        CompressError: none has any, or it is still on.
    """
    made = {m.layer: output_transform(net.get_submodule(m.layer)) for m in group.producers if _is_module(net, m.layer)}
    found = {name: noise for name, noise in made.items() if isinstance(noise, kind) and noise.ended}
    if not found:
        raise CompressError(
            f"criterion: the channels of {group.name!r} have no noise of {callback}; train with it in a stage before, "
            f"or leave the layer out"
        )
    return found


def norm_scales(group: ChannelGroup, net: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> weight of the batch norms in a group.

    Raises:
        CompressError: there is none.
    """
    modules = {m.layer: net.get_submodule(m.layer) for m in group.producers if _is_module(net, m.layer)}
    found = {n: m.weight for n, m in modules.items() if isinstance(m, BatchNormBase) and m.affine}
    if not found:
        raise CompressError(f"criterion: the channels of {group.name!r} go through no batch norm; use l2, or ignore it")
    return found


def _is_module(net: nn.Module, name: str) -> bool:
    parent, _, key = name.rpartition(".")
    return key in own_children(net.get_submodule(parent))
