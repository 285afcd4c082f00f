"""From torch-pruning's dependency graph to channel groups, each verified by execution before it is offered.

A network that torch-pruning cannot trace as a whole (a channel shuffle, say) is traced part by part: inside its
sub-modules there may be channels that can still be removed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.surgery import measure
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.graph.channels import IN, OUT, ChannelGraph, ChannelGroup, Member
from lightning_compress.surgery.graph.dependencies import RAGGED, Dependencies, Reached, StrayError
from lightning_compress.surgery.graph.heads import head_groups
from lightning_compress.surgery.graph.reasons import OUTPUT, not_called, unfollowed
from lightning_compress.surgery.graph.verify_channels import verified
from lightning_compress.surgery.modes import Mode, evaluation, recorded
from lightning_compress.surgery.transforms import bake

Atom = tuple[int, int]  # number of the set, channel of its root


@dataclass(frozen=True)
class Side:
    """One side of a layer in the set of what is coupled with one root.

    Attributes:
        layer: name of the layer, or of a parameter that belongs to no known layer.
        side: ``out``, ``in``, or why it cannot be pruned.
        rows: for each channel of the root the positions that it comes to, ascending; none for some where the root is
            split.
        dim: of a parameter, the dimension that holds the channels; else 0.
        extent: of a parameter, the size of that dimension; else 0.
    """

    layer: str
    side: str
    rows: list[list[int]]
    dim: int = 0
    extent: int = 0


def trace_channels(net: nn.Module, profile: Profile, example: Any) -> ChannelGraph:
    """Return the channel groups of a network, which is left as it is.

    Args:
        net: dense.
        profile: of ``net``.
        example: one input batch.

    Raises:
        CompressError: torch-pruning can trace no part of the network.
    """
    net = bake(clone(net)).requires_grad_(True)  # torch-pruning follows autograd
    failures: set[str] = set()  # parts that torch-pruning cannot trace
    example = measure.beside(net, example)
    done = recorded(copy.deepcopy(net), example)
    modes = [mode for mode in done if mode is evaluation or done[mode].operations != done[evaluation].operations]
    traced = [mode for mode in modes if mode is evaluation or done[mode].layers != done[evaluation].layers]
    # Traced copies are thrown away: a network may cache a tensor of the traced pass, and then cannot be copied.
    traces = [list(_coupled_sets(copy.deepcopy(net), "", example, failures, mode)) for mode in traced]
    sets = [part for found in traces for part in found]
    if not sets:
        raise CompressError(
            f"pruning: the channels of {type(net).__name__} cannot be followed through its forward pass, nor through "
            f"any part of it; leave ChannelPruning out for this network"
        )
    reasons: dict[str, str] = {}
    heads = head_groups(net, profile)
    inside = {member.layer for group in heads for member in group.producers}
    sets = [part for part in sets if part[0].layer not in inside]  # which torch-pruning cannot follow by heads
    groups = heads + [
        group
        for parts in _merged(sets, profile, len(traced) > 1, _norm_groups(net))
        if (group := _group(parts, profile, reasons, not failures)) is not None
    ]
    kept, wrong = verified(net, groups, example, modes)
    reasons |= wrong
    covered = {member.layer for group in kept for member in group.producers}
    weighted = [layer for layer in profile.weighted if layer.name not in covered]
    idle = [layer.name for layer in weighted if not layer.positions and layer.name not in reasons]
    reasons |= not_called(net, idle, example)
    for layer in weighted:
        reasons.setdefault(layer.name, _why(layer.name, failures))
    return ChannelGraph({g.name: g for g in kept}, {layer.name: reasons[layer.name] for layer in weighted})


def _why(layer: str, failures: Set[str]) -> str:
    inside = [part for part in failures if layer == part or layer.startswith(f"{part}." if part else "")]
    return unfollowed(max(inside, key=len)) if inside else OUTPUT


def _coupled_sets(net: nn.Module, prefix: str, example: Any, failures: set[str], mode: Mode) -> Iterator[list[Side]]:
    """Return sides for each root, with one row for each of its channels; by parts if the whole fails."""
    try:
        graph = Dependencies(net, example, mode)
    except Exception:  # torch-pruning raises anything that its index arithmetic runs into
        failures.add(prefix.rstrip("."))
        inputs = _inputs_of_children(net, example, mode)
        for name, child in net.named_children():
            if name in inputs and any(isinstance(m, measure.CONV + measure.LINEAR) for m in list(child.modules())[1:]):
                yield from _coupled_sets(child, f"{prefix}{name}.", inputs[name], failures, mode)
        return
    names: dict[Any, str] = {module: name for name, module in net.named_modules()}
    names |= {parameter: name for name, parameter in net.named_parameters()}
    seen: set[str] = set()
    for module, name in list(names.items()):
        if not isinstance(module, measure.CONV + measure.LINEAR) or name in seen or module not in graph:
            continue
        width = module.weight.shape[0]
        try:
            found = graph.reached(module)
        except StrayError as stray:
            place = names.get(stray.target)
            beyond = "" if place is None else prefix + place
            yield [Side(prefix + name, OUT, [[i] for i in range(width)]), Side(beyond, stray.reason, [[]] * width)]
            continue
        sides = [s for reached in found if reached.target in names for s in _sides(reached, width, names, prefix)]
        seen |= {side.layer.removeprefix(prefix) for side in sides if side.side == OUT and all(side.rows)}
        yield sides


def _inputs_of_children(net: nn.Module, example: Any, mode: Mode) -> dict[str, Any]:
    """Return the first input of each child in a forward pass."""
    found: dict[str, Any] = {}
    handles = [child.register_forward_pre_hook(_remember(found, name)) for name, child in net.named_children()]
    try:
        with torch.no_grad():
            mode(net, example)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _remember(found: dict[str, Any], name: str) -> Any:
    def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            found.setdefault(name, args[0])

    return hook


def _sides(reached: Reached, width: int, names: Mapping[Any, str], prefix: str) -> list[Side]:
    """Return what one side of a module or parameter is to a group whose root has ``width`` channels."""
    target, name = reached.target, prefix + names[reached.target]
    rows: list[list[int]] = [[] for _ in range(width)]
    for root, position in zip(reached.roots.tolist(), reached.positions.tolist(), strict=True):
        rows[root].append(position)
    if isinstance(target, nn.Parameter):
        return [Side(name, OUT, rows, reached.dim, target.shape[reached.dim])]
    weighted = isinstance(target, measure.CONV + measure.LINEAR)  # whose one output is a channel all the same
    wide = weighted or any(value.dim() and len(value) > 1 for value in target.state_dict().values())
    if not wide and not _mixes(target):
        return []  # a norm without parameters, one slope for all channels: any number of channels fits
    if isinstance(target, nn.Embedding):
        return [Side(f"{name}.weight", OUT, rows, 1, target.embedding_dim)]
    if isinstance(target, nn.PReLU):
        return [Side(f"{name}.weight", OUT, rows)]
    if (_mixes(target) and not wide) or not isinstance(target, measure.CONV + measure.LINEAR + measure.NORM):
        unseen = " without a weight, whose width a saved file does not show" if _mixes(target) else ""
        return [Side(name, f"a {type(target).__name__}{unseen}", rows)]
    if isinstance(target, measure.NORM):
        return [Side(name, OUT, rows)]
    own = {key: p for key, p in target.named_parameters(recurse=False) if key not in ("weight", "bias")}
    gains = [Side(f"{name}.{key}", OUT, rows, 0, len(p)) for key, p in own.items() if p.dim()]
    depthwise = isinstance(target, measure.CONV) and target.groups > 1 and target.groups == target.out_channels
    if depthwise and target.in_channels == target.out_channels:
        return [Side(name, OUT, rows), Side(name, IN, rows), *gains]
    return [Side(name, IN, rows)] if reached.inputs else [Side(name, OUT, rows), *gains]


def _mixes(module: nn.Module) -> bool:
    return isinstance(module, (nn.LayerNorm, nn.GroupNorm))


def _norm_groups(net: nn.Module) -> dict[str, int]:
    """Group norm -> channels in one of its groups; a single group is as a layer norm."""
    norms = {n: m for n, m in net.named_modules() if isinstance(m, nn.GroupNorm) and m.num_groups > 1}
    return {name: norm.num_channels // norm.num_groups for name, norm in norms.items()}


def _merged(
    sets: list[list[Side]], profile: Profile, modes: bool, norm_groups: Mapping[str, int]
) -> list[list[Member]]:
    """Join sets whose channels a grouped convolution or a group norm couples, as members over common units.

    Union-find over single channels: all inputs and outputs of one group end in one unit, and so do channels of one root
    that meet, as the halves of a split that are added. Where several modes were traced, all that reads an output
    channel in any of them ends in its unit.
    """
    parent: dict[Atom, Atom] = {(s, c): (s, c) for s, part in enumerate(sets) for c in range(len(part[0].rows))}

    def find(atom: Atom) -> Atom:
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = parent[atom]
        return atom

    grouped = {p.name: p for p in profile.weighted if p.groups > 1 and not p.groups == p.out_channels == p.in_channels}
    first: dict[tuple[str, int], Atom] = {}
    outputs = _outputs(sets, {layer.name for layer in profile.weighted}) if modes else ()
    for atom, layer, block in (*_blocks(sets, grouped, norm_groups), *_met(sets), *outputs):
        parent[find(atom)] = find(first.setdefault((layer, block), atom))
    units: dict[Atom, list[Atom]] = {}
    for atom in sorted(parent):
        units.setdefault(find(atom), []).append(atom)
    joined: dict[frozenset[int], list[list[Atom]]] = {}
    for atoms in units.values():
        joined.setdefault(frozenset(s for s, _ in atoms), []).append(atoms)
    return [_over_units(sets, sorted(group)) for group in joined.values()]


def _blocks(
    sets: list[list[Side]], grouped: Mapping[str, LayerProfile], norm_groups: Mapping[str, int]
) -> Iterator[tuple[Atom, str, int]]:
    """Return each channel of a grouped convolution or a group norm, with the layer and the group it is in."""
    for s, part in enumerate(sets):
        for member in part:
            if member.side not in (IN, OUT):
                continue
            if member.layer in grouped:
                layer = grouped[member.layer]
                width = (layer.in_channels if member.side == IN else layer.out_channels) // layer.groups
            elif member.layer in norm_groups:
                width = norm_groups[member.layer]
            else:
                continue
            for channel, positions in enumerate(member.rows):
                yield from (((s, channel), member.layer, position // width) for position in positions)


def _met(sets: list[list[Side]]) -> Iterator[tuple[Atom, str, int]]:
    """Return each channel of a root at a side where several come to one position, under a name that no layer has."""
    for s, part in enumerate(sets):
        for number, side in enumerate(part):
            if sum(map(len, side.rows)) > len(set().union(*side.rows)):
                for channel, positions in enumerate(side.rows):
                    yield from (((s, channel), f"{s} {number}", position) for position in positions)


def _outputs(sets: list[list[Side]], weighted: set[str]) -> Iterator[tuple[Atom, str, int]]:
    """Return each output channel of a conv or linear layer, under a name that no layer has."""
    for s, part in enumerate(sets):
        for member in part:
            if member.layer in weighted and member.side == OUT:
                for channel, positions in enumerate(member.rows):
                    yield from (((s, channel), f"{member.layer} {OUT}", position) for position in positions)


def _over_units(sets: list[list[Side]], units: list[list[Atom]]) -> list[Member]:
    """Return the members of the joined sets with one row of positions for each unit; ragged rows cannot be pruned."""
    rows: dict[tuple[str, str], list[list[int]]] = {}
    places: dict[str, tuple[int, int]] = {}  # of raw parameters
    for number in sorted({s for s, _ in units[0]}):
        for member in sets[number]:
            table = rows.setdefault((member.layer, member.side), [[] for _ in units])
            places[member.layer] = (member.dim, member.extent)
            if member.side == RAGGED:
                continue
            for row, atoms in zip(table, units, strict=True):
                row += [p for s, c in atoms if s == number for p in member.rows[c]]
    found = []
    for (layer, side), table in rows.items():
        table = [sorted(set(row)) for row in table]
        ragged = len({len(row) for row in table}) > 1
        found.append(Member(layer, RAGGED if ragged else side, torch.tensor([[]] if ragged else table), *places[layer]))
    return found


def _group(members: list[Member], profile: Profile, reasons: dict[str, str], whole: bool) -> ChannelGroup | None:
    """Return a group, or None after its producers' reasons are noted."""
    known = {layer.name: i for i, layer in enumerate(profile)}
    foreign = [m for m in members if m.side not in (IN, OUT) or m.layer not in known]
    weighted = {layer.name for layer in profile.weighted}
    producers = [m.layer for m in members if m.side == OUT and m.layer in weighted]
    if foreign:
        where = f"reach {foreign[0].layer!r}, which is" if foreign[0].layer else "are"
        reason = f"its channels {where} {foreign[0].side}"
    elif all(m.side != IN or m.layer in producers for m in members):
        reason = OUTPUT if whole else f"{OUTPUT}, or of a part of it beyond which they cannot be followed"
    elif members[0].index.shape[0] < 2:
        reason = "it has only one channel to remove"
    else:
        root = min(producers, key=known.__getitem__)
        return ChannelGroup(root, members[0].index.shape[0], tuple(members))
    reasons.update(dict.fromkeys(producers, reason))
    return None
