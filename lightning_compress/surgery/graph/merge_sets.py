"""Sets of coupled channels become members over common units.

A set says which positions of which layers go with the channels of one root. A grouped convolution, a group norm or a
second mode of the network couples channels of several roots: a unit is then a connected component of channels.

A grouped convolution couples the same place of all its groups, on each side for itself, so that its groups get narrower
and stay alike. Where a group has a single channel on one side, or nothing could be removed so (a group norm behind it
wants whole groups), it couples all channels of one group on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from lightning_compress.core.profile import Profile
from lightning_compress.surgery.graph.channels import IN, OUT, Member
from lightning_compress.surgery.graph.dependencies import RAGGED

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Side:
    """One side of a layer in the set of what is coupled with one root.

    Attributes:
        layer: name of the layer, or of a parameter that belongs to no known layer.
        side: ``out``, ``in``, or why it cannot be pruned.
        roots: channels of the root, ascending; some are missing where the root is split.
        positions: that they come to, as many, each pair once.
        dim: of a parameter, the dimension that holds the channels; else 0.
        extent: of a parameter, the size of that dimension; else 0.
    """

    layer: str
    side: str
    roots: Ints
    positions: Ints
    dim: int = 0
    extent: int = 0


@dataclass(frozen=True)
class _Coupling:
    """Channels of one set, and the block that each is in: channels of one block go together.

    Attributes:
        number: of the set.
        channels: of its root.
        blocks: as many, from 0.
        name: of what has these blocks.
    """

    number: int
    channels: Ints
    blocks: Ints
    name: str


def merge_sets(
    sets: Sequence[Sequence[Side]], profile: Profile, modes: bool, norm_groups: Mapping[str, int]
) -> list[list[Member]]:
    """Join sets whose channels a grouped convolution or a group norm couples, as members over common units.

    Channels of one root that meet end in one unit, as the halves of a split that are added. Where several modes were
    traced, all that reads an output channel in any of them ends in its unit.

    Args:
        sets: for each root its sides, the root's own output first.
        profile: of the network.
        modes: whether the sets are of several modes.
        norm_groups: group norm -> channels in one of its groups.
    """
    grouped = {p.name: p for p in profile.kernels if p.groups > 1}
    whole = {name for name, layer in grouped.items() if layer.groups in (layer.in_channels, layer.out_channels)}
    while True:
        found = _merged(sets, profile, modes, norm_groups, whole)
        stuck = {m.layer for part in found for m in part if m.layer in grouped and len(m.index) == 1} - whole
        if not stuck:
            return found
        whole |= stuck


def _merged(
    sets: Sequence[Sequence[Side]],
    profile: Profile,
    modes: bool,
    norm_groups: Mapping[str, int],
    whole: Set[str],
) -> list[list[Member]]:
    """Return what :func:`merge_sets` does, where some convolutions lose whole groups.

    Args:
        sets, profile, modes, norm_groups: as there.
        whole: their names.
    """
    grouped = [layer for layer in profile.kernels if layer.groups > 1]
    inside = {(p.name, IN): p.in_channels // p.groups for p in grouped}
    inside |= {(p.name, OUT): p.out_channels // p.groups for p in grouped}
    leaving = {key: width for key, width in inside.items() if key[0] in whole}
    weighted = {layer.name for layer in profile.kernels} if modes else set()
    widths = [max(int(side.roots[-1]) + 1 for side in part if len(side.roots)) for part in sets]
    starts = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
    couplings = [*_blocks(sets, inside, norm_groups, whole), *_met(sets), *_outputs(sets, weighted)]
    component = _components(couplings, starts)
    among: dict[int, tuple[int, ...]] = {}  # component -> the sets that it is in
    for number in range(len(sets)):
        for each in np.unique(component[starts[number] : starts[number + 1]]).tolist():
            among[each] = (*among.get(each, ()), number)
    joined: dict[tuple[int, ...], list[int]] = {}
    for each in sorted(among):
        joined.setdefault(among[each], []).append(each)
    found, unit = [], np.full(len(among), -1)
    for numbers, components in joined.items():
        unit[components] = np.arange(len(components))
        units = {number: unit[component[starts[number] : starts[number + 1]]] for number in numbers}
        found.append(_over_units(sets, units, len(components), leaving))
        unit[components] = -1
    return found


def _ascending(values: Ints) -> Ints:
    """Return values in ascending order and once each; most are so already, and sorting takes longer than to see it."""
    return values if (values[1:] > values[:-1]).all() else np.unique(values)


def _blocks(
    sets: Sequence[Sequence[Side]],
    inside: Mapping[tuple[str, str], int],
    norm_groups: Mapping[str, int],
    whole: Set[str],
) -> Iterator[_Coupling]:
    """Return which group of a grouped convolution or a group norm, or which column of a matrix, channels are in.

    Of the groups of a convolution that get narrower, in which place of all of them.
    """
    for number, part in enumerate(sets):
        for side in part:
            if side.side not in (IN, OUT):
                continue
            if (side.layer, side.side) in inside:
                width = inside[side.layer, side.side]
                if side.layer not in whole:  # under a name that no layer has
                    yield _Coupling(number, side.roots, side.positions % width, f"{side.layer} {side.side} in groups")
                    continue
            elif side.layer in norm_groups:
                width = norm_groups[side.layer]
            elif side.side == IN and side.dim:
                width = 1  # of a matrix that several streams are multiplied with, as attention's
            else:
                continue
            yield _Coupling(number, side.roots, side.positions // width, side.layer)


def _met(sets: Sequence[Sequence[Side]]) -> Iterator[_Coupling]:
    """Return the channels of a root at a side where several come to one position, under a name that no layer has."""
    for number, part in enumerate(sets):
        for place, side in enumerate(part):
            if np.bincount(side.positions).max(initial=0) > 1:
                yield _Coupling(number, side.roots, side.positions, f"{number} {place}")


def _outputs(sets: Sequence[Sequence[Side]], weighted: set[str]) -> Iterator[_Coupling]:
    """Return the output channels of conv and linear layers, under a name that no layer has."""
    for number, part in enumerate(sets):
        for side in part:
            if side.layer in weighted and side.side == OUT:
                yield _Coupling(number, side.roots, side.positions, f"{side.layer} {OUT}")


def _components(couplings: Sequence[_Coupling], starts: Ints) -> Ints:
    """Return the connected component of each channel of each set, numbered in the order of their first channels.

    Args:
        couplings: which channels go together.
        starts: number of the first channel of each set, and how many there are in all.
    """
    total = int(starts[-1])
    couplings = [each for each in couplings if len(each.channels)]
    if not couplings:
        return np.arange(total)
    sizes: dict[str, int] = {}
    for each in couplings:
        sizes[each.name] = max(sizes.get(each.name, 0), int(each.blocks.max()) + 1)
    offsets = dict(zip(sizes, total + np.cumsum([0, *sizes.values()]), strict=False))
    channels = np.concatenate([starts[each.number] + each.channels for each in couplings])
    blocks = np.concatenate([offsets[each.name] + each.blocks for each in couplings])
    nodes = total + sum(sizes.values())
    graph = coo_matrix((np.ones(len(channels), np.int8), (channels, blocks)), shape=(nodes, nodes))
    labels = connected_components(graph, directed=False)[1][:total]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _over_units(
    sets: Sequence[Sequence[Side]], units: Mapping[int, Ints], count: int, leaving: Mapping[tuple[str, str], int]
) -> list[Member]:
    """Return the members of some sets with one row of positions for each unit; ragged rows cannot be pruned.

    Args:
        sets: all of them.
        units: number of a set -> unit of each channel of its root; -1 for those of other units.
        count: how many units there are.
        leaving: convolution that loses whole groups, and side -> channels of one of its groups.
    """
    found: dict[tuple[str, str], list[tuple[Ints, Ints]]] = {}  # layer, side -> units, positions
    places: dict[tuple[str, str], tuple[int, int]] = {}  # of raw parameters
    for number, unit in units.items():
        for side in sets[number]:
            pairs = found.setdefault((side.layer, side.side), [])
            places[side.layer, side.side] = (side.dim, side.extent)
            of = unit[side.roots]
            own = of >= 0
            pairs.append((of[own], side.positions[own]))
    members = []
    for (layer, name), pairs in found.items():
        table = _table(pairs, count)
        index = torch.zeros(count, 0, dtype=torch.long) if table is None else table
        groups = index.shape[1] // leaving[layer, name] if (layer, name) in leaving else 0
        members.append(Member(layer, RAGGED if table is None else name, index, *places[layer, name], groups))
    return members


def _table(pairs: Sequence[tuple[Ints, Ints]], count: int) -> Tensor | None:
    """Return the positions of each unit, ascending and once each; None where units have different numbers of them."""
    of, positions = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    extent = int(positions.max(initial=0)) + 1
    distinct = _ascending(of * extent + positions)
    counts = np.bincount(distinct // extent, minlength=count)
    if (counts != counts[0]).any():
        return None
    return torch.from_numpy((distinct % extent).reshape(count, -1))
