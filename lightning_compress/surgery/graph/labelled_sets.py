"""Sets of coupled channels from the numbers that go through a network, and the attributes that it splits them by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from lightning_compress.surgery import measure
from lightning_compress.surgery.attention import COUNTS
from lightning_compress.surgery.graph.channel_labels import labelled
from lightning_compress.surgery.graph.channels import HEADS, OUT, ChannelGroup, Number
from lightning_compress.surgery.graph.dependencies import Reached
from lightning_compress.surgery.graph.merge_sets import Side
from lightning_compress.surgery.modes import Mode
from lightning_compress.surgery.split_numbers import counts


@dataclass(frozen=True)
class Split:
    """A split of channels by a number in the code.

    Attributes:
        layer: one that makes these channels.
        module: name of the module whose code it is.
        size: of a part.
        channels: in all.
    """

    layer: str
    module: str
    size: int
    channels: int


def labelled_sets(
    net: nn.Module, example: Any, mode: Mode, sides_of: Callable[[Reached, Mapping[Any, str], str], list[Side]]
) -> tuple[list[list[Side]], list[Split]]:
    """Return sides for each family of channels, a layer's output first, and their splits.

    Args:
        net: a copy, which is run.
        example: one input batch.
        mode: in which it runs.
        sides_of: what one side of a module or parameter is, given the names of all.
    """
    names: dict[Any, str] = {module: name for name, module in net.named_modules()}
    names |= {parameter: name for name, parameter in net.named_parameters()}
    weighted = {name for module, name in names.items() if isinstance(module, measure.KERNELS)}
    found, sets, splits = labelled(net, example, mode), list[list[Side]](), list[Split]()
    for family, ends, by in zip(found.families, found.ends, found.splits, strict=True):
        sides = [side for reached in family for side in sides_of(reached, names, "")]
        sides.sort(key=lambda side: not (side.side == OUT and side.layer in weighted))
        if not sides or sides[0].side != OUT or sides[0].layer not in weighted:
            continue
        nothing = np.arange(0)
        sides += [
            Side("", f"read by {name!r}, beyond which they are not followed", nothing, nothing) for name in ends[:1]
        ]
        sets.append(sides)
        splits += [Split(sides[0].layer, each.module, each.size, each.channels) for each in by]
    return sets, splits


def with_numbers(group: ChannelGroup, splits: Sequence[Split], net: nn.Module) -> ChannelGroup:
    """Return a group with the attributes that its channels are split by.

    An attribute counts if it has the size of a part, or else the number of all channels; that of heads before others.

    Args:
        group: whose units are of the same kind.
        splits: of all groups.
        net: dense.
    """
    producers, found = {member.layer for member in group.producers}, dict[str, int]()
    for split in splits:
        if split.layer in producers and not split.channels % group.units:
            own, each = dict(counts(net.get_submodule(split.module))), split.channels // group.units
            parts = [key for key, value in own.items() if value == split.size]
            parts = [key for key in parts if key in COUNTS] or parts
            whole = [key for key, value in own.items() if value == split.channels]
            per_part = each * split.size // split.channels
            changes = dict.fromkeys(parts, per_part) if parts else dict.fromkeys(whole, each)
            prefix = f"{split.module}." if split.module else ""
            found |= {prefix + key: change for key, change in changes.items()}
    knob = HEADS if any(name.rpartition(".")[2] in COUNTS for name in found) else group.knob
    return replace(group, knob=knob, numbers=tuple(Number(name, each) for name, each in found.items()))
