"""From torch-pruning's dependency graph to channel groups, each verified by execution before it is offered.

A network that torch-pruning cannot trace as a whole (a channel shuffle, say) is traced part by part: inside its
sub-modules there may be channels that can still be removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError
from lightning_compress.core.profile import Profile
from lightning_compress.surgery import measure
from lightning_compress.surgery.copies import clone, sharing
from lightning_compress.surgery.graph.channels import EACH, IN, OUT, ChannelGraph, ChannelGroup, Member
from lightning_compress.surgery.graph.dependencies import Dependencies, Reached, StrayError
from lightning_compress.surgery.graph.followed_attention import Projection, make_followable
from lightning_compress.surgery.graph.heads import head_groups
from lightning_compress.surgery.graph.merge_sets import Side, merge_sets
from lightning_compress.surgery.graph.reasons import OUTPUT, idle, unfollowed
from lightning_compress.surgery.graph.token_mixing import Mixing, set_mixing_aside
from lightning_compress.surgery.graph.verify_channels import Check, verified
from lightning_compress.surgery.modes import Mode, Recorded, evaluation, recorded
from lightning_compress.surgery.thin_attention import WEIGHT
from lightning_compress.surgery.transforms import bake, transformed
from lightning_compress.surgery.without_values import without_values


def trace_channels(net: nn.Module, profile: Profile, example: Any) -> ChannelGraph:
    """Return the channel groups of a network, which is left as it is.

    Args:
        net: dense.
        profile: of ``net``.
        example: one input batch.

    Raises:
        CompressError: torch-pruning can trace no part of the network.
    """
    if not profile.weighted:
        return ChannelGraph({}, {})
    failures: set[str] = set()  # parts that torch-pruning cannot trace
    net = bake(sharing(net)) if transformed(net) else net
    shapes, modes = _recorded(net, profile, example)
    checks = _checks(modes)
    # Traced copies are thrown away: a network may cache a tensor of the traced pass, and then cannot be copied.
    traces = [
        list(_all_sets(_followable(shapes), measure.beside(shapes, example), failures, check.mode))
        for check in checks
        if check.other_layers
    ]
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
        for parts in merge_sets(sets, profile, len(traces) > 1, _norm_groups(net))
        if (group := _group(parts, profile, reasons, not failures)) is not None
    ]
    kept, wrong = verified(net, shapes, groups, example, checks)
    reasons |= wrong
    covered = {member.layer for group in kept for member in group.producers}
    weighted = [layer for layer in profile.weighted if layer.name not in covered]
    reasons |= idle(modes, [layer.name for layer in weighted if not layer.positions and layer.name not in reasons])
    for layer in weighted:
        reasons.setdefault(layer.name, _why(layer.name, failures))
    return ChannelGraph({g.name: g for g in kept}, {layer.name: reasons[layer.name] for layer in weighted})


def _recorded(net: nn.Module, profile: Profile, example: Any) -> tuple[nn.Module, dict[Mode, Recorded]]:
    """Return the network that shapes are asked of, and what it does in each mode.

    That network has no values where it runs the same layers without them.
    """
    called = {layer.name for layer in profile.weighted if layer.positions}
    weighted = {layer.name for layer in profile.weighted}
    with suppress(Exception):  # whatever the network's own forward raises
        shapes = without_values(net)
        modes = recorded(clone(shapes), example)
        if {name for name in weighted if modes[evaluation].layers[name]} == called:
            return shapes, modes
    return clone(net), recorded(clone(net), example)


def _checks(modes: Mapping[Mode, Recorded]) -> list[Check]:
    """Return the modes that groups are found and verified in: evaluation, and what computes something else."""
    evaluated = modes[evaluation]
    checks = [Check(evaluation, False, True, evaluated.outputs)]
    for mode, record in modes.items():
        if record.operations != evaluated.operations:
            checks.append(Check(mode, record.draws, record.layers != evaluated.layers, record.outputs))
    return checks


def _followable(net: nn.Module) -> nn.Module:
    """Return a copy that autograd follows, as torch-pruning does."""
    copy = clone(net)
    make_followable(copy)
    return copy.requires_grad_(True)


def _why(layer: str, failures: Set[str]) -> str:
    inside = [part for part in failures if layer == part or layer.startswith(f"{part}." if part else "")]
    return unfollowed(max(inside, key=len)) if inside else OUTPUT


def _all_sets(net: nn.Module, example: Any, failures: set[str], mode: Mode) -> Iterator[list[Side]]:
    """Return sides for each root; what mixes tokens is followed around, and then inside."""
    for name, mixing in set_mixing_aside(net, example, mode).items():
        nothing = np.arange(0)
        ends = Side("", "tokens, which other layers mix", nothing, nothing)
        if isinstance(mixing.inside[0], measure.LINEAR):
            tokens = np.arange(mixing.inside[0].out_features)
            yield [Side(name, OUT, tokens, tokens), ends]
            continue
        for part in _coupled_sets(mixing.inside[0], f"{name}.", mixing.example[0], failures, mode):
            yield part if any(side.side == IN for side in part) else [*part, ends]
    yield from _coupled_sets(net, "", example, failures, mode)


def _coupled_sets(net: nn.Module, prefix: str, example: Any, failures: set[str], mode: Mode) -> Iterator[list[Side]]:
    """Return sides for each root, the root itself first; by parts if the whole fails."""
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
        if isinstance(module, Projection):
            continue  # which is pruned by heads
        try:
            found = graph.reached(module)
        except StrayError as stray:
            place = names.get(stray.target)
            beyond = "" if place is None else prefix + place
            channels = np.arange(module.weight.shape[0])
            yield [Side(prefix + name, OUT, channels, channels), Side(beyond, stray.reason, channels[:0], channels[:0])]
            continue
        sides = [s for reached in found if reached.target in names for s in _sides(reached, names, prefix)]
        sides = [each for side in sides for each in _mixed(side, net, prefix)]
        whole = [side for side in sides if side.side == OUT and len(np.unique(side.roots)) == module.weight.shape[0]]
        seen |= {side.layer.removeprefix(prefix) for side in whole}
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


def _sides(reached: Reached, names: Mapping[Any, str], prefix: str) -> list[Side]:
    """Return what one side of a module or parameter is to the group of a root."""
    target, name = reached.target, prefix + names[reached.target]
    rows = reached.roots, reached.positions
    if isinstance(target, Projection):
        matrix = f"{name.rpartition('.')[0]}.{WEIGHT}"
        return [Side(matrix, IN, *rows, 1, target.in_features)] if reached.inputs else []
    if isinstance(target, nn.Parameter):
        return [Side(name, OUT, *rows, reached.dim, target.shape[reached.dim])]
    weighted = isinstance(target, measure.CONV + measure.LINEAR)  # whose one output is a channel all the same
    wide = weighted or any(value.dim() and len(value) > 1 for value in target.state_dict().values())
    if not wide and not _mixes(target):
        return []  # a norm without parameters, one slope for all channels: any number of channels fits
    if isinstance(target, nn.Embedding):
        return [Side(f"{name}.weight", OUT, *rows, 1, target.embedding_dim)]
    if isinstance(target, nn.PReLU):
        return [Side(f"{name}.weight", OUT, *rows)]
    if (_mixes(target) and not wide) or not isinstance(target, measure.CONV + measure.LINEAR + measure.NORM):
        unseen = " without a weight, whose width a saved file does not show" if _mixes(target) else ""
        return [Side(name, f"a {type(target).__name__}{unseen}", *rows)]
    if isinstance(target, measure.NORM):
        return [Side(name, OUT, *rows)]
    own = {key: p for key, p in target.named_parameters(recurse=False) if key not in ("weight", "bias")}
    gains = [Side(f"{name}.{key}", OUT, *rows, 0, len(p)) for key, p in own.items() if p.dim()]
    depthwise = isinstance(target, measure.CONV) and target.groups > 1 and target.groups == target.out_channels
    if depthwise and target.in_channels == target.out_channels:
        return [Side(name, OUT, *rows), Side(name, IN, *rows), *gains]
    return [Side(name, IN, *rows)] if reached.inputs else [Side(name, OUT, *rows), *gains]


def _mixed(side: Side, net: nn.Module, prefix: str) -> list[Side]:
    """Return what stands for the channels of what mixes tokens: the layers in it, which run for each of them."""
    owner, _, key = side.layer.removeprefix(prefix).rpartition(".")
    mixing = net.get_submodule(owner) if key == "channels" else None
    if not isinstance(mixing, Mixing):
        return [side]
    inside = [name for name, module in mixing.inside[0].named_modules() if isinstance(module, measure.LINEAR)]
    names = [f"{prefix}{owner}.{name}" if name else prefix + owner for name in inside]
    return [Side(name, EACH, side.roots, side.positions) for name in names]


def _mixes(module: nn.Module) -> bool:
    return isinstance(module, (nn.LayerNorm, nn.GroupNorm))


def _norm_groups(net: nn.Module) -> dict[str, int]:
    """Group norm -> channels in one of its groups; a single group is as a layer norm."""
    norms = {n: m for n, m in net.named_modules() if isinstance(m, nn.GroupNorm) and m.num_groups > 1}
    return {name: norm.num_channels // norm.num_groups for name, norm in norms.items()}


def _group(members: list[Member], profile: Profile, reasons: dict[str, str], whole: bool) -> ChannelGroup | None:
    """Return a group, or None after its producers' reasons are noted."""
    known = {layer.name: i for i, layer in enumerate(profile)}
    foreign = [m for m in members if m.side not in (IN, OUT, EACH) or m.layer not in known]
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
