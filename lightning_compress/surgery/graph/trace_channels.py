"""From sets of coupled channels to groups, each verified by execution before it is offered.

Torch-pruning's dependency graph is asked first (dependency_sets.py); where it is wrong, or leaves layers whole for a
reason that could be its own, channels are followed by numbers too (labelled_sets.py), and what removes more is taken.
Which of the graph's groups are wrong is asked, by halves, only where numbers tell less than the graph would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn

from lightning_compress.core.errors import CompressError
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.surgery import measure
from lightning_compress.surgery.copies import clone, sharing
from lightning_compress.surgery.graph.channels import EACH, IN, OUT, ChannelGraph, ChannelGroup, Member
from lightning_compress.surgery.graph.dependency_sets import TOKENS, dependency_sets, sides_of
from lightning_compress.surgery.graph.followed_attention import make_followable
from lightning_compress.surgery.graph.heads import head_groups
from lightning_compress.surgery.graph.labelled_sets import Split, labelled_sets, with_numbers
from lightning_compress.surgery.graph.merge_sets import Side, merge_sets
from lightning_compress.surgery.graph.reasons import OUTPUT, idle, unfollowed
from lightning_compress.surgery.graph.verify_channels import Check, all_right, verified
from lightning_compress.surgery.modes import Mode, Recorded, evaluation, recorded
from lightning_compress.surgery.transforms import bake, transformed
from lightning_compress.surgery.without_values import without_values

SINGLE = "it has only one channel to remove"
SLIDES = "it runs over the channels of other layers, and has none of its own"


def trace_channels(net: nn.Module, profile: Profile, example: Any) -> ChannelGraph:
    """Return the channel groups of a network, which is left as it is.

    Args:
        net: dense.
        profile: of ``net``.
        example: one input batch.

    Raises:
        CompressError: no part of the network can be traced.
    """
    if not profile.kernels:
        return ChannelGraph({}, {})
    net = bake(sharing(net)) if transformed(net) else net
    shapes, modes = _recorded(net, profile, example)
    traced = _Traced(net, shapes, modes, profile, example)
    told = traced.by_dependencies(traced.widest)
    graph = None if told is None else traced.at_once(told)
    if graph is None and len(traced.widest) < len(traced.different):
        told = traced.by_dependencies(traced.different)
        graph = None if told is None else traced.at_once(told)
    if graph is not None and traced.settled(graph):
        return graph
    hoped = profile.macs if told is None else traced.left(told.groups)
    labelled = traced.by_labels(hoped - (graph is not None))
    if told is not None and graph is None and (labelled is None or traced.left(labelled.groups.values()) > hoped):
        graph = traced.by_halves(told)
        if labelled is None and not traced.settled(graph):
            labelled = traced.by_labels(traced.left(graph.groups.values()) - 1)
    graphs = [each for each in (graph, labelled) if each is not None]
    if not graphs:
        raise CompressError(
            f"pruning: the channels of {type(net).__name__} cannot be followed through its forward pass, nor through "
            f"any part of it; leave ChannelPruning out for this network"
        )
    return min(graphs, key=lambda each: traced.left(each.groups.values()))


def _followed(sets: Sequence[Sequence[Side]]) -> set[str]:
    """Return the first layers of the sets that end in layers."""
    ended = (part for part in sets if all(side.side in (IN, OUT, EACH) for side in part))
    return {part[0].layer for part in ended if any(side.side == IN for side in part)}


def _apart(heads: Sequence[ChannelGroup], made: Sequence[ChannelGroup]) -> list[ChannelGroup]:
    """Return groups that share no channel, those of heads first; what was followed is surer than what looks like heads.

    Two groups that share channels could pass their verification by chance: where both lose the same ones.
    """
    names = {group.name for group in heads}
    made = [group for group in made if group.name not in names]
    owned = {member.layer for group in made for member in group.producers}
    return [group for group in heads if not owned & {member.layer for member in group.producers}] + made


def _settled(layer: LayerProfile, reason: str) -> bool:
    """Return whether another way would tell nothing new of a layer that is kept whole."""
    alone = not layer.positions or layer.out_channels == 1
    return alone or reason in (OUTPUT, f"its channels are {TOKENS}")


@dataclass(frozen=True)
class _Told:
    """Groups that are to be verified.

    Attributes:
        groups: of channels.
        reasons: layer -> why it is kept whole.
        failures: parts that were not traced.
    """

    groups: list[ChannelGroup]
    reasons: Mapping[str, str]
    failures: Set[str]


@dataclass(frozen=True)
class _Traced:
    """A network whose channels are followed, in one way or two.

    Attributes:
        net: dense, with plain weights.
        shapes: a copy, without values where it runs so.
        modes: what it does in each mode.
        profile: of it.
        example: one input batch.
    """

    net: nn.Module
    shapes: nn.Module
    modes: Mapping[Mode, Recorded]
    profile: Profile
    example: Any

    @property
    def different(self) -> list[Mode]:
        """Modes in which other layers run, evaluation first."""
        return [check.mode for check in self._checks if check.other_layers]

    @property
    def widest(self) -> list[Mode]:
        """Of these, the one in which all layers of the others run as often, if there is one; else all."""
        modes = self.different
        wide = [mode for mode in modes if all(self.modes[other].layers <= self.modes[mode].layers for other in modes)]
        return wide[:1] or modes

    def by_dependencies(self, modes: Sequence[Mode]) -> _Told | None:
        """Return the groups that torch-pruning's graph tells; None where it can trace no part of the network.

        Args:
            modes: in which it is traced.
        """
        failures: set[str] = set()  # parts that it cannot trace
        # Traced copies are thrown away: a network may cache a tensor of the traced pass, and then cannot be copied.
        traces = [
            list(
                dependency_sets(_followable(self.shapes), self._beside, failures, mode, self.modes[mode].may_mix_tokens)
            )
            for mode in modes
        ]
        return self._told(traces, [], failures) if any(traces) else None

    def by_labels(self, most: int) -> ChannelGraph | None:
        """Return the groups that numbers of channels tell, and that are right; None where they cannot be followed.

        Args:
            most: MACs with half of all units; None is returned where more would be left even if all were right.
        """
        if not self._labelled:
            return None
        splits = [split for _, found in self._labelled for split in found]
        told = self._told([sets for sets, _ in self._labelled], splits, set())
        return self.by_halves(told) if self.left(told.groups) <= most else None

    @cached_property
    def _labelled(self) -> list[tuple[list[list[Side]], list[Split]]]:
        """For each mode with other layers, sets and splits by numbers of channels; none where a forward pass raises."""
        with suppress(Exception):  # whatever the network's own forward raises
            return [labelled_sets(_followable(self.shapes), self._beside, mode, sides_of) for mode in self.different]
        return []

    def left(self, groups: Iterable[ChannelGroup]) -> int:
        """Return the MACs with half of the units of some groups."""
        return ChannelGraph({group.name: group for group in groups}, {}).halved(self.profile).macs

    def settled(self, graph: ChannelGraph) -> bool:
        """Return whether another way would tell nothing new."""
        return all(_settled(self.profile[name], why) for name, why in graph.kept_whole.items())

    def at_once(self, told: _Told) -> ChannelGraph | None:
        """Return the groups if all of them are right."""
        right = all_right(self.net, self.shapes, told.groups, self.example, self._checks)
        return self._graph(told.groups, told.reasons, told.failures) if right else None

    def by_halves(self, told: _Told) -> ChannelGraph:
        """Return the groups that are right."""
        groups = told.groups
        kept, wrong = verified(self.net, self.shapes, groups, self.example, self._checks)
        reasons, right = {**told.reasons, **wrong}, {group.name for group in kept}
        others = [replace(group, numbers=()) for group in groups if group.numbers and group.name not in right]
        if others:  # a number may have the size of a part by chance
            kept, wrong = verified(self.net, self.shapes, [*kept, *others], self.example, self._checks)
            reasons |= wrong
        return self._graph(kept, reasons, told.failures)

    @property
    def _beside(self) -> Any:
        return measure.beside(self.shapes, self.example)

    @property
    def _checks(self) -> list[Check]:
        return _checks(self.modes)

    def _told(self, traces: list[list[list[Side]]], splits: Sequence[Split], failures: Set[str]) -> _Told:
        """Return the groups of some sets, and why layers are in none.

        Args:
            traces: for each mode, for each root or family its sides.
            splits: by numbers in the code.
            failures: parts that were not traced.
        """
        sets = [part for found in traces for part in found]
        reasons: dict[str, str] = {}
        heads = head_groups(self.net, self.profile)
        if not failures and splits:
            heads = [group for group in heads if not {m.layer for m in group.producers} & _followed(sets)]
        inside = {member.layer for group in heads for member in group.producers}
        sets = [part for part in sets if part[0].layer not in inside]  # which cannot be followed by heads
        made = [
            with_numbers(group, splits, self.net)
            for parts in merge_sets(sets, self.profile, len(traces) > 1, _norm_groups(self.net))
            if (group := _group(parts, self.profile, reasons, not failures)) is not None
        ]
        return _Told(_apart(heads, made), reasons, failures)

    def _graph(self, kept: Sequence[ChannelGroup], reasons: Mapping[str, str], failures: Set[str]) -> ChannelGraph:
        """Return groups that are right, and why the layers in none of them are kept whole."""
        reasons = {member.layer: SLIDES for g in kept for member in g.members if member.side == EACH} | dict(reasons)
        covered = {member.layer for group in kept for member in group.producers}
        weighted = [layer for layer in self.profile.kernels if layer.name not in covered]
        unused = [layer.name for layer in weighted if not layer.positions and layer.name not in reasons]
        reasons |= idle(self.modes, unused)
        for layer in weighted:
            reasons.setdefault(layer.name, _why(layer.name, failures))
        return ChannelGraph({g.name: g for g in kept}, {layer.name: reasons[layer.name] for layer in weighted})


def _recorded(net: nn.Module, profile: Profile, example: Any) -> tuple[nn.Module, dict[Mode, Recorded]]:
    """Return the network that shapes are asked of, and what it does in each mode.

    That network has no values where it runs the same layers without them.
    """
    called = {layer.name for layer in profile.kernels if layer.positions}
    weighted = {layer.name for layer in profile.kernels}
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


def _norm_groups(net: nn.Module) -> dict[str, int]:
    """Group norm -> channels in one of its groups; a single group is as a layer norm."""
    norms = {n: m for n, m in net.named_modules() if isinstance(m, nn.GroupNorm) and m.num_groups > 1}
    return {name: norm.num_channels // norm.num_groups for name, norm in norms.items()}


def _group(members: list[Member], profile: Profile, reasons: dict[str, str], whole: bool) -> ChannelGroup | None:
    """Return a group, or None after its producers' reasons are noted."""
    known = {layer.name: i for i, layer in enumerate(profile)}
    foreign = [m for m in members if m.side not in (IN, OUT, EACH) or m.layer not in known]
    weighted = {layer.name for layer in profile.kernels}
    producers = [m.layer for m in members if m.side == OUT and m.layer in weighted]
    if foreign:
        where = f"reach {foreign[0].layer!r}, which is" if foreign[0].layer else "are"
        reason = f"its channels {where} {foreign[0].side}"
    elif all(m.side != IN or m.layer in producers for m in members):
        reason = OUTPUT if whole else f"{OUTPUT}, or of a part of it beyond which they cannot be followed"
    elif members[0].index.shape[0] < 2:
        reason = SINGLE
    else:
        root = min(producers, key=known.__getitem__)
        return ChannelGroup(root, members[0].index.shape[0], tuple(members))
    reasons.update(dict.fromkeys(producers, reason))
    return None
