"""Groups of coupled channels.

torch-pruning's dependency graph says which positions of which layers go together: through residual sums,
concatenations, depthwise convolutions, squeeze-and-excite, flattening. Here that becomes plain data: groups of
removable *units*, each unit a set of positions in the tensors of the group's members. A grouped convolution gets
narrower inside its groups: a unit is one place in each of them, and its inputs and outputs are apart. Where one side of
its groups is a single channel, as in depthwise convolutions, a unit is a whole conv group with both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from lightning_compress.core.profile import LayerProfile, Profile

OUT, IN = "out", "in"
CHANNELS, HEADS = "channels", "heads"  # knobs
EACH = "each"  # of a layer that runs once for each channel, as one that mixes tokens does: it gets no narrower


@dataclass(frozen=True)
class Member:
    """One side of one layer in a group.

    Attributes:
        layer: its name in the profile.
        side: ``out``, ``in``, or ``each`` where the layer runs for each of these channels; norms and raw parameters
            have only ``out``, but the matrix of attention has both.
        index: positions on that side for each unit, shape ``(units, per unit)``.
        dim: of a raw parameter, the dimension that holds the channels; else 0.
        extent: of a raw parameter, the size of that dimension; else 0.
        conv_groups: of a grouped convolution, how many of its groups one unit takes along; 0 where they get narrower.
    """

    layer: str
    side: str
    index: Tensor
    dim: int = 0
    extent: int = 0
    conv_groups: int = 0


@dataclass(frozen=True)
class Number:
    """An attribute that counts channels of a group.

    Attributes:
        name: of its module and itself, joined by a dot.
        each: how much less it is for each unit that is removed.
    """

    name: str
    each: int


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only be removed together.

    Attributes:
        name: the root: the first layer, as they run, whose output channels these are.
        units: how many can be removed one by one.
        members: all tensors that they reach.
        numbers: that the code splits them by.
        knob: what a plan calls the ratio of units kept.
    """

    name: str
    units: int
    members: tuple[Member, ...]
    knob: str = CHANNELS
    numbers: tuple[Number, ...] = ()

    @property
    def producers(self) -> list[Member]:
        """The members whose output channels these are."""
        return [member for member in self.members if member.side == OUT]

    @property
    def readers(self) -> list[Member]:
        """The members that read these channels, and compute as many outputs without some of them."""
        return [member for member in self.members if member.side == IN and not member.conv_groups]

    @property
    def width(self) -> int:
        """Output channels of the root in one unit."""
        return next(m.index.shape[1] for m in self.members if m.layer == self.name and m.side == OUT)


@dataclass(frozen=True)
class ChannelGraph:
    """All groups of a network by root, and what is kept whole, with the reason."""

    groups: Mapping[str, ChannelGroup]
    kept_whole: Mapping[str, str]

    def root(self, layer: str) -> str | None:
        """Return the root of the group that owns the layer's output channels, if one does."""
        return next((g.name for g in self.groups.values() if any(m.layer == layer for m in g.producers)), None)

    def halved(self, profile: Profile) -> Profile:
        """Return the profile after each group is reduced to half of its units."""
        return self.shrink(profile, {name: max(1, group.units // 2) for name, group in self.groups.items()})

    def shrink(self, profile: Profile, kept: Mapping[str, int]) -> Profile:
        """Return the profile after each group is reduced to ``kept`` units; groups not named stay whole."""
        lost: dict[str, dict[tuple[str, int], int]] = {}  # layer -> side and dimension -> channels
        extents: dict[str, int] = {}  # of raw parameters whose channels are not their first dimension
        conv_groups: dict[str, int] = {}  # layer -> groups that it loses
        left: dict[str, Fraction] = {}  # share of the positions of layers that run for each channel
        for name, units in kept.items():
            group = self.groups[name]
            for member in group.members:
                if member.side == EACH:
                    left[member.layer] = left.get(member.layer, 1) * Fraction(units, group.units)
                    continue
                own, key = lost.setdefault(member.layer, {}), (member.side, member.dim)
                own[key] = own.get(key, 0) + (group.units - units) * member.index.shape[1]
                if member.side == OUT:
                    groups = (group.units - units) * member.conv_groups
                    conv_groups[member.layer] = conv_groups.get(member.layer, 0) + groups
                if member.dim:
                    extents[member.layer] = member.extent
        changed = []
        for name, own in lost.items():
            layer = profile[name]
            if layer.kind == "matrix":
                rows, columns = (sum(count for (_, dim), count in own.items() if dim == place) for place in (0, 1))
                changed.append(
                    replace(layer, in_channels=layer.in_channels - columns, out_channels=layer.out_channels - rows)
                )
            elif name in extents:
                extent = extents[name]
                changed.append(replace(layer, extras=layer.extras * (extent - sum(own.values())) // extent))
            else:
                changed.append(_narrow(layer, own.get((IN, 0), 0), own.get((OUT, 0), 0), conv_groups.get(name, 0)))
        profile = profile.update(changed)
        return profile.update(
            replace(profile[name], positions=int(profile[name].positions * share)) for name, share in left.items()
        )


def _narrow(layer: LayerProfile, lost_in: int, lost_out: int, lost_groups: int) -> LayerProfile:
    out = layer.out_channels - lost_out
    if layer.kind not in ("conv", "conv_transpose", "linear"):
        return replace(layer, in_channels=out, out_channels=out)
    groups = layer.groups - lost_groups
    return replace(layer, in_channels=layer.in_channels - lost_in, out_channels=out, groups=groups)


def kept_positions(graph: ChannelGraph, profile: Profile, keep: Mapping[str, Tensor], side: str) -> dict[str, Tensor]:
    """Return layer, in the order in which they run -> the positions of one side that stay; only layers that lose some.

    Of inputs only those of layers that compute as many outputs without them.

    Args:
        graph: the groups.
        profile: of the network before the removal.
        keep: root -> indices of the kept units.
        side: ``in`` or ``out``.
    """
    gone: dict[str, list[Tensor]] = {}
    for name, kept in keep.items():
        dropped = torch.ones(graph.groups[name].units, dtype=torch.bool)
        dropped[kept.cpu()] = False
        for member in graph.groups[name].readers if side == IN else graph.groups[name].producers:
            if dropped.any():
                gone.setdefault(member.layer, []).append(member.index[dropped].flatten())
    found = {}
    for layer in profile.kernels:
        if layer.name in gone:
            stays = torch.ones(layer.in_channels if side == IN else layer.out_channels, dtype=torch.bool)
            stays[torch.cat(gone[layer.name])] = False
            found[layer.name] = stays.nonzero().flatten()
    return found
