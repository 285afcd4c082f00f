"""From torch-pruning's dependency graph to channel groups, each verified by execution before it is offered.

A network that torch-pruning cannot trace as a whole (a channel shuffle, say) is traced part by part: inside its
sub-modules there may be channels that can still be removed.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Set
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.surgery import measure
from lightning_compress.surgery.graph.channels import IN, OUT, ChannelGraph, ChannelGroup, Member
from lightning_compress.surgery.graph.reasons import OUTPUT, not_called, unfollowed
from lightning_compress.surgery.graph.verify_channels import verified
from lightning_compress.surgery.modes import Mode, evaluation, layers_run, modes_of
from lightning_compress.surgery.tensors import tensors_in
from lightning_compress.surgery.transforms import bake

FACTOR = 16  # most features that a channel may become, counted in those of the widest layer: more is a mistake
RAGGED = "read through a slice, split or reshape that cannot be followed"  # a side of a member that cannot be pruned
Atom = tuple[int, int]  # number of the torch-pruning group, channel of its root


def trace_channels(net: nn.Module, profile: Profile, example: Any) -> ChannelGraph:
    """Return the channel groups of a network, which is left as it is.

    Args:
        net: dense.
        profile: of ``net``.
        example: one input batch.

    Raises:
        CompressError: torch-pruning can trace no part of the network.
    """
    net = bake(copy.deepcopy(net)).requires_grad_(True)  # torch-pruning follows autograd
    failures: set[str] = set()  # parts that torch-pruning cannot trace
    example = measure.beside(net, example)
    modes = modes_of(copy.deepcopy(net), example)
    traced = [modes[0], *(mode for mode in modes[1:] if _runs_others(net, example, mode))]
    # Traced copies are thrown away: a network may cache a tensor of the traced pass, and then cannot be copied.
    traces = [list(_coupled_sets(copy.deepcopy(net), "", example, failures, mode)) for mode in traced]
    sets = [part for found in traces for part in found]
    if not sets:
        raise CompressError(
            f"pruning: the channels of {type(net).__name__} cannot be followed through its forward pass, nor through "
            f"any part of it; leave ChannelPruning out for this network"
        )
    reasons: dict[str, str] = {}
    groups = [
        group
        for parts in _merged(sets, profile, len(traced) > 1, _norm_groups(net))
        if (group := _group(parts, profile, reasons, not failures)) is not None
    ]
    kept, wrong = verified(net, groups, example, modes)
    reasons |= wrong
    covered = {member.layer for group in kept for member in group.producers}
    weighted = [layer for layer in profile.weighted if layer.name not in covered]
    for layer in weighted:
        if not layer.positions and layer.name not in reasons:
            reasons[layer.name] = not_called(net, layer.name, example)
        reasons.setdefault(layer.name, _why(layer.name, failures))
    return ChannelGraph({g.name: g for g in kept}, {layer.name: reasons[layer.name] for layer in weighted})


def _runs_others(net: nn.Module, example: Any, mode: Mode) -> bool:
    """Return whether other layers run than in evaluation, or as often."""
    return layers_run(copy.deepcopy(net), example, mode) != layers_run(copy.deepcopy(net), example, evaluation)


def _why(layer: str, failures: Set[str]) -> str:
    inside = [part for part in failures if layer == part or layer.startswith(f"{part}." if part else "")]
    return unfollowed(max(inside, key=len)) if inside else OUTPUT


def _coupled_sets(net: nn.Module, prefix: str, example: Any, failures: set[str], mode: Mode) -> Iterator[list[Member]]:
    """Return members for each root, ``index`` of shape (root channels, per channel); by parts if the whole fails."""
    try:
        graph = _dependencies(net, example, mode)
    except Exception:  # torch-pruning raises anything that its index arithmetic runs into
        failures.add(prefix.rstrip("."))
        inputs = _inputs_of_children(net, example, mode)
        for name, child in net.named_children():
            if name in inputs and any(isinstance(m, measure.CONV + measure.LINEAR) for m in list(child.modules())[1:]):
                yield from _coupled_sets(child, f"{prefix}{name}.", inputs[name], failures, mode)
        return
    modules = {module: name for name, module in net.named_modules()}
    parameters = {id(p): name for name, p in net.named_parameters()}
    seen: set[str] = set()
    for module, name in modules.items():
        if not isinstance(module, measure.CONV + measure.LINEAR) or name in seen or module not in graph.module2node:
            continue
        pruner = graph.get_pruner_of_module(module)
        channels = list(range(module.weight.shape[0]))
        try:
            found = graph.get_pruning_group(module, pruner.prune_out_channels, channels)
        except Exception:
            failures.add(f"{prefix}{name}")
            continue
        members = [m for item in found for m in _members(item, len(channels), graph, modules, parameters, prefix)]
        seen |= {m.layer.removeprefix(prefix) for m in members if m.side == OUT and m.index.shape[0] == len(channels)}
        yield members


def _dependencies(net: nn.Module, example: Any, mode: Mode) -> torch_pruning.DependencyGraph:
    if not any(isinstance(m, measure.CONV + measure.LINEAR) for m in net.modules()):
        raise CompressError("it has no conv or linear layer")
    with warnings.catch_warnings(), torch.inference_mode(False), torch.enable_grad():
        warnings.simplefilter("ignore")  # about layers that it does not know; what is not in a group is reported by us
        # After this warning (Swin's shifted windows) it takes all memory there is.
        warnings.filterwarnings("error", message="Maximum recursive depth")
        graph = torch_pruning.DependencyGraph().build_dependency(
            net, example, forward_fn=mode, output_transform=_traceable, verbose=False
        )
    check = _NotTooMany(FACTOR * max(max(p.shape) for p in net.parameters() if p.dim()))
    for node in graph.module2node.values():
        for dependency in node.dependencies:
            dependency.index_mapping.append(check)
    return graph


def _traceable(output: Any) -> list[Tensor]:
    """Return the tensors of an output that autograd can follow back."""
    return [tensor for tensor in tensors_in(output) if tensor.grad_fn is not None]


class _NotTooMany:
    """A last mapping of indices, of those that torch-pruning applies on its way through a group.

    Around a loop of reshapes it multiplies them at each turn, without an end.
    """

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, indices: list[Any]) -> list[Any]:
        if len(indices) > self.most:
            raise CompressError(f"its channels become {len(indices)} features, more than any layer here has")
        return indices


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


def _members(
    item: Any, width: int, graph: Any, modules: dict[nn.Module, str], parameters: dict[int, str], prefix: str
) -> list[Member]:
    """Return one item of a torch-pruning group whose root has ``width`` channels."""
    target = item.dep.target.module
    name = parameters.get(id(target)) if isinstance(target, nn.Parameter) else modules.get(target)
    if name is None:  # an operation without parameters
        return []
    roots, positions = torch.tensor(list(item.root_idxs)), torch.tensor(list(item.idxs))
    order = torch.argsort(roots, stable=True)
    each = torch.arange(width).repeat_interleave(len(roots) // width)
    if not torch.equal(roots[order], each):  # a slice or a split that torch-pruning lost track of
        return [Member(prefix + name, RAGGED, torch.zeros(width, 1, dtype=torch.long))]
    index = positions[order].view(width, -1)
    if isinstance(target, nn.Parameter):
        dim = next(dim for parameter, dim in graph.unwrapped_parameters if parameter is target)
        return [Member(prefix + name, OUT, index, dim, target.shape[dim])]
    weighted = isinstance(target, measure.CONV + measure.LINEAR)  # whose one output is a channel all the same
    wide = weighted or any(value.dim() and len(value) > 1 for value in target.state_dict().values())
    if not wide and not _mixes(target):
        return []  # a norm without parameters, one slope for all channels: any number of channels fits
    if isinstance(target, nn.PReLU):
        return [Member(f"{prefix}{name}.weight", OUT, index)]
    if (_mixes(target) and not wide) or not isinstance(target, measure.CONV + measure.LINEAR + measure.NORM):
        unseen = " without a weight, whose width a saved file does not show" if _mixes(target) else ""
        return [Member(prefix + name, f"a {type(target).__name__}{unseen}", index)]
    side = IN if graph.is_in_channel_pruning_fn(item.dep.handler) else OUT
    if isinstance(target, measure.NORM):
        return [Member(prefix + name, OUT, index)]
    own = {key: p for key, p in target.named_parameters(recurse=False) if key not in ("weight", "bias")}
    gains = [Member(f"{prefix}{name}.{key}", OUT, index, 0, len(p)) for key, p in own.items() if p.dim()]
    depthwise = isinstance(target, measure.CONV) and target.groups > 1 and target.groups == target.out_channels
    if depthwise and target.in_channels == target.out_channels:
        return [Member(prefix + name, OUT, index), Member(prefix + name, IN, index), *gains]
    return [Member(prefix + name, side, index), *(gains if side == OUT else ())]


def _mixes(module: nn.Module) -> bool:
    return isinstance(module, (nn.LayerNorm, nn.GroupNorm))


def _norm_groups(net: nn.Module) -> dict[str, int]:
    """Group norm -> channels in one of its groups; a single group is as a layer norm."""
    norms = {n: m for n, m in net.named_modules() if isinstance(m, nn.GroupNorm) and m.num_groups > 1}
    return {name: norm.num_channels // norm.num_groups for name, norm in norms.items()}


def _merged(
    sets: list[list[Member]], profile: Profile, modes: bool, norm_groups: Mapping[str, int]
) -> list[list[Member]]:
    """Join sets whose channels a grouped convolution or a group norm couples, as members over common units.

    Union-find over single channels: all inputs and outputs of one group end in one unit. Where several modes were
    traced, all that reads an output channel in any of them ends in its unit.
    """
    parent: dict[Atom, Atom] = {(s, c): (s, c) for s, part in enumerate(sets) for c in range(part[0].index.shape[0])}

    def find(atom: Atom) -> Atom:
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = parent[atom]
        return atom

    grouped = {p.name: p for p in profile.weighted if p.groups > 1 and not p.groups == p.out_channels == p.in_channels}
    first: dict[tuple[str, int], Atom] = {}
    outputs = _outputs(sets, {layer.name for layer in profile.weighted}) if modes else ()
    for atom, layer, block in (*_blocks(sets, grouped, norm_groups), *outputs):
        parent[find(atom)] = find(first.setdefault((layer, block), atom))
    units: dict[Atom, list[Atom]] = {}
    for atom in sorted(parent):
        units.setdefault(find(atom), []).append(atom)
    joined: dict[frozenset[int], list[list[Atom]]] = {}
    for atoms in units.values():
        joined.setdefault(frozenset(s for s, _ in atoms), []).append(atoms)
    return [_over_units(sets, sorted(group)) for group in joined.values()]


def _blocks(
    sets: list[list[Member]], grouped: Mapping[str, LayerProfile], norm_groups: Mapping[str, int]
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
            for channel, positions in enumerate(member.index.tolist()):
                yield from (((s, channel), member.layer, position // width) for position in positions)


def _outputs(sets: list[list[Member]], weighted: set[str]) -> Iterator[tuple[Atom, str, int]]:
    """Return each output channel of a conv or linear layer, under a name that no layer has."""
    for s, part in enumerate(sets):
        for member in part:
            if member.layer in weighted and member.side == OUT:
                for channel, positions in enumerate(member.index.tolist()):
                    yield from (((s, channel), f"{member.layer} {OUT}", position) for position in positions)


def _over_units(sets: list[list[Member]], units: list[list[Atom]]) -> list[Member]:
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
                row += [p for s, c in atoms if s == number for p in member.index[c].tolist()]
    found = []
    for (layer, side), table in rows.items():
        table = [sorted(set(row)) for row in table]
        ragged = len({len(row) for row in table}) > 1
        found.append(Member(layer, RAGGED if ragged else side, torch.tensor([[]] if ragged else table), *places[layer]))
    return found


def _beyond(member: Member, profile: Profile) -> bool:
    """Return whether a member names positions that its layer does not have: the tracer took a wrong turn."""
    layer = profile[member.layer]
    width = layer.in_channels if member.side == IN else layer.out_channels
    return layer.kind in ("conv", "linear") and int(member.index.max()) >= width


def _group(members: list[Member], profile: Profile, reasons: dict[str, str], whole: bool) -> ChannelGroup | None:
    """Return a group, or None after its producers' reasons are noted."""
    known = {layer.name: i for i, layer in enumerate(profile)}
    foreign = [m for m in members if m.side not in (IN, OUT) or m.layer not in known]
    weighted = {layer.name for layer in profile.weighted}
    producers = [m.layer for m in members if m.side == OUT and m.layer in weighted]
    if foreign:
        reason = f"its channels reach {foreign[0].layer!r}, which is {foreign[0].side}"
    elif (beyond := next((m.layer for m in members if m.side in (IN, OUT) and _beyond(m, profile)), None)) is not None:
        reason = f"its channels reach {beyond!r} through a reshape that cannot be followed"
    elif all(m.side != IN or m.layer in producers for m in members):
        reason = OUTPUT if whole else f"{OUTPUT}, or of a part of it beyond which they cannot be followed"
    elif members[0].index.shape[0] < 2:
        reason = "it has only one channel to remove"
    else:
        leader = min(producers, key=known.__getitem__)
        return ChannelGroup(leader, members[0].index.shape[0], tuple(members))
    reasons.update(dict.fromkeys(producers, reason))
    return None
