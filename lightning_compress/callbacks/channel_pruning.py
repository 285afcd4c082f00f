"""Channel pruning: whole channels are removed for real, through everything they are coupled with.

    keep the round(ratio x units) units of a group that the criterion chooses; slice all tensors that they reach

Removing equals masking, verified by execution. Where a layer computes statistics over channels (LayerNorm, RMSNorm,
GroupNorm of one group, GRN, weight-standardized convolutions), masking means statistics over the kept ones; where a
convolution slides over channels (ECA-Net), it slides over the kept ones. Group norms of several groups lose whole
groups, so their statistics stay as they were.

Heads of attention are units too, where a module keeps their number and size (surgery/attention.py), or is torch's
``MultiheadAttention`` or the attention of torchvision's Swin or MaxViT (surgery/thin_attention.py, ...): the
knob ``heads`` at the layer or matrix of the queries, keys and values keeps that share of the heads.
Embeddings lose features with the stream that they feed.

Sources: AMC (arXiv 1802.03494) for keep-ratios per layer, DepGraph (arXiv 2301.12900) for coupled groups. Removal
happens in ``setup``, before the optimizer exists, so the network that is trained is the thin one. Use it first of all
where speed counts: a thin network is faster everywhere, without kernels for sparsity or few bits. What it cannot see
through is kept whole, and :meth:`ChannelPruning.kept_whole` says why. It breaks networks that are narrow already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from typing_extensions import override

from lightning_compress.callbacks.base.callback import CompressionCallback, known_structure
from lightning_compress.core.errors import CompressError, did_you_mean
from lightning_compress.core.instances import check_instances
from lightning_compress.core.plan import Number, Plan, as_globs, matching
from lightning_compress.core.profile import Profile
from lightning_compress.core.space import Choice
from lightning_compress.pruning.channel_errors import channel_errors
from lightning_compress.pruning.criteria.criterion import Criterion
from lightning_compress.pruning.criteria.l2 import L2
from lightning_compress.pruning.input_moments import KEY as MOMENTS
from lightning_compress.pruning.input_moments import gather_moments
from lightning_compress.pruning.reconstruction.refit import Refit
from lightning_compress.surgery import measure
from lightning_compress.surgery.calibration import calibration_of, drop_calibration
from lightning_compress.surgery.graph.channels import (
    CHANNELS,
    HEADS,
    IN,
    OUT,
    ChannelGraph,
    ChannelGroup,
    kept_positions,
)
from lightning_compress.surgery.graph.reasons import UNTRAINED
from lightning_compress.surgery.graph.remove_channels import remove
from lightning_compress.surgery.graph.trace_channels import trace_channels
from lightning_compress.surgery.patience import told_when_slow
from lightning_compress.surgery.row_layout import weight_rows
from lightning_compress.surgery.structure import network
from lightning_compress.surgery.transforms import check_plain, drop_output, transformed


@final
class ChannelPruning(CompressionCallback):
    """Removes channels; the knob ``channels`` is the keep-ratio, in (0, 1], at the root of each group.

    The keep-ratio of the heads of attention is the knob ``heads``, at the layer or matrix that gives their queries.

    Args:
        plan: see :class:`CompressionCallback`.
        criterion: scores channels.
        round_to: the root's kept channels are rounded up to a multiple of this, where there are as many.
        ignore: globs of layers whose output channels stay.
        keep_first: also keep the output channels of the first layer.
        lowest: smallest keep-ratio that a search may choose (AMC: 0.2).
        refit: gives the layers that read removed channels new weights in closed form; None leaves them.
        batches: train batches that a criterion or a refit which needs data sees.

    Raises:
        CompressError: a layer of the plan cannot be pruned, or is not the root of its group.
        NoEffectError: a glob of ``ignore`` matches no layer.
    """

    kind: ClassVar[str] = "channel_pruning"
    after: ClassVar[frozenset[str]] = frozenset({"layer_removal"})
    removes: ClassVar[bool] = True
    knobs: ClassVar[Mapping[str, str]] = {CHANNELS: "channels kept", HEADS: "heads kept"}

    def __init__(
        self,
        plan: Plan | str | Path | Mapping[str, Any] | None = None,
        criterion: Criterion | None = None,
        round_to: int = 1,
        ignore: Sequence[str] = (),
        keep_first: bool = False,
        lowest: float = 0.2,
        refit: Refit | None = None,
        batches: int = 8,
    ) -> None:
        super().__init__(plan)
        check_instances("ChannelPruning", criterion=(criterion, Criterion), refit=(refit, Refit))
        if round_to < 1:
            raise CompressError(f"ChannelPruning: round_to must be 1 or more, got {round_to}")
        if not 0 <= lowest <= 1:
            raise CompressError(f"ChannelPruning: lowest must be a keep-ratio from 0 to 1, got {lowest}")
        self.criterion = L2() if criterion is None else criterion
        self.round_to, self.ignore, self.keep_first, self.lowest = round_to, as_globs(ignore), keep_first, lowest
        self.refit, self.batches = refit, batches
        self._graphs: dict[object, ChannelGraph] = {}  # by architecture; shared by the copies of with_plan

    def kept_whole(self, module: nn.Module, example: Any) -> dict[str, str]:
        """Return layer -> why its output channels are not pruned, whatever the plan says.

        Args:
            module: a LightningModule or a network; it is not changed.
            example: one input batch.
        """
        net = network(module)
        return dict(self._graph(net, known_structure(net, example).profile, example).kept_whole)

    def coupled(self, module: nn.Module, example: Any) -> dict[str, tuple[str, ...]]:
        """Return root of a group -> the other layers whose output channels go with its own."""
        net = network(module)
        groups = self._graph(net, known_structure(net, example).profile, example).groups.values()
        names = {group.name: dict.fromkeys(member.layer for member in group.producers) for group in groups}
        return {root: tuple(name for name in layers if name != root) for root, layers in names.items()}

    @override
    def choices(self, net: nn.Module, profile: Profile, example: Any) -> list[Choice]:
        graph = self._graph(net, profile, example)
        groups = graph.groups.values()
        if not groups:
            rank_zero_warn(f"ChannelPruning: nothing of {type(net).__name__} can be pruned: {_commonest(graph)}")
        return [Choice(group.name, group.knob, self._ratios(group)) for group in groups]

    @override
    def resolve(self, plan: Plan, net: nn.Module, profile: Profile, example: Any) -> Plan:
        graph = self._graph(net, profile, example)
        whole = {}
        for layer, knobs in self.own(plan).layers.items():
            if layer not in graph.groups:
                raise CompressError(_refusal(layer, graph))
            group = graph.groups[layer]
            if other := sorted(knobs.keys() - {group.knob}):
                raise CompressError(
                    f"pruning: of layer {layer!r} {group.knob} are removed, got {other[0]} {knobs[other[0]]}; name its "
                    f"ratio {group.knob!r} in the plan"
                )
            ratio = knobs[group.knob]
            if not 0 < ratio <= 1:
                raise CompressError(
                    f"pruning: {group.knob} of layer {layer!r} must be above 0 and at most 1, got {ratio}"
                )
            kept = min(self._kept(group, ratio), self.criterion.most(group, net))
            if kept < group.units:
                whole[layer] = {group.knob: kept / group.units}
        return Plan(whole)

    @override
    def predict(self, plan: Plan, profile: Profile) -> Profile:
        if not plan.layers:
            return profile
        graph = self._graphs.get(profile.architecture)
        if graph is None:
            raise CompressError("pruning: predict needs the groups of the network; call choices or resolve first")
        return graph.shrink(profile, self._units(plan, graph))

    def added(self, asked: Plan, applied: Plan) -> Plan:
        """Return the groups that were whole until now: their ratios mean the same on the pruned network."""
        own, before = self.own(self.plan or Plan({})).layers, {*asked.layers, *applied.layers}
        if any(own.get(name) not in (asked.layers.get(name), applied.layers.get(name)) for name in before):
            return super().added(asked, applied)
        return Plan({name: knobs for name, knobs in own.items() if name not in before})

    @override
    def calibrate(self, module: LightningModule, batches: Iterable[Any]) -> None:
        seen = _Replayed(batches, self.batches)
        self.criterion.gather(module, seen)
        if self.refit is not None:
            self.refit.gather(module, seen)

    def output_errors(
        self, choices: Sequence[Choice], net: nn.Module, profile: Profile, example: Any, batches: Sequence[Any]
    ) -> list[list[float]]:
        """Return the errors in the layers that read each group, from their inputs' second moments."""
        if calibration_of(net, MOMENTS) is None:
            gather_moments(net, batches)
        moments = calibration_of(net, MOMENTS)
        if self.refit is None:
            moments = {
                name: found.without_features(weight_rows(net.get_submodule(name))) for name, found in moments.items()
            }
        groups, errors = self._graph(net, profile, example).groups, []
        for choice in choices:
            group = groups[choice.layer]
            ranked = torch.sort(self.criterion(group, net), descending=True, stable=True).indices
            by_count = channel_errors(group, net, moments, ranked)
            errors.append([float(by_count[round(ratio * group.units)]) for ratio in choice.values])
        return errors

    @override
    def attach(self, plan: Plan, net: nn.Module, profile: Profile, example: Any) -> None:
        graph = self._graph(net, profile, example)
        kept = self._units(plan, graph)
        keep = {name: self.criterion.kept(graph.groups[name], net, units) for name, units in kept.items()}
        for name, layer in transformed(net).items():
            if keep:
                check_plain(name, layer, "ChannelPruning")
            drop_output(layer)  # learned noise has given its scores, and has the widths of before
        inputs, outputs = (kept_positions(graph, profile, keep, side) for side in (IN, OUT))
        if self.refit is not None:
            self.refit.before(net, inputs)
        remove(net, graph, keep)
        if self.refit is not None:
            self.refit.after(net, inputs, outputs)
        drop_calibration(net)
        net.zero_grad()

    def _graph(self, net: nn.Module, profile: Profile, example: Any) -> ChannelGraph:
        if profile.architecture not in self._graphs:
            if not profile.layers.keys() >= {layer.name for layer in measure.all_layers(net) if layer.weights}:
                raise CompressError(
                    "pruning: another callback of this stage removes layers; prune channels in a stage after it"
                )
            with told_when_slow(
                f"ChannelPruning: following the channels of {type(net).__name__} ({len(profile.kernels)} layers) and "
                f"verifying each group by execution; this is done once"
            ):
                graph = trace_channels(net, profile, example)
            if unseen := [name for name, reason in graph.kept_whole.items() if reason == UNTRAINED]:
                rank_zero_warn(
                    f"ChannelPruning: {type(net).__name__} fails in training mode on the example input, so layers that "
                    f"run in training alone are not followed ({unseen[0]!r} never ran) and may not fit what is pruned; "
                    f"give an example_input_array that the network can be trained on"
                )
            names = [layer.name for layer in profile.kernels]
            fixed = {name for pattern in self.ignore for name in matching(pattern, names)}
            fixed |= {names[0]} if self.keep_first else set()
            kept = {n: g for n, g in graph.groups.items() if not fixed & {m.layer for m in g.producers}}
            reasons = {m.layer: "it is ignored" for n, g in graph.groups.items() if n not in kept for m in g.producers}
            self._graphs[profile.architecture] = ChannelGraph(kept, {**graph.kept_whole, **reasons})
        return self._graphs[profile.architecture]

    def _units(self, plan: Plan, graph: ChannelGraph) -> dict[str, int]:
        """Return root -> units that a resolved plan keeps."""
        groups = {layer: graph.groups[layer] for layer in self.own(plan).layers}
        return {layer: round(plan.layers[layer][group.knob] * group.units) for layer, group in groups.items()}

    def _step(self, group: ChannelGroup) -> int:
        return max(1, self.round_to // group.width)

    def _kept(self, group: ChannelGroup, ratio: Number) -> int:
        step = self._step(group)
        return min(group.units, ceil(max(1, round(ratio * group.units)) / step) * step)

    def _ratios(self, group: ChannelGroup) -> tuple[float, ...]:
        step, least = self._step(group), self._kept(group, self.lowest)
        kept = sorted({*range(least, group.units, step), group.units})
        return tuple(units / group.units for units in kept)


class _Replayed:
    """The first batches of a source, read when they are first needed, and the same each time."""

    def __init__(self, source: Iterable[Any], limit: int) -> None:
        self.source, self.limit = source, limit
        self.batches: list[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        if self.batches is None:
            self.batches = list(islice(self.source, self.limit))
        return iter(self.batches)


def _commonest(graph: ChannelGraph) -> str:
    """Return the reason for most layers."""
    if not graph.kept_whole:
        return "it has no conv and no linear layer"
    reason, count = Counter(graph.kept_whole.values()).most_common(1)[0]
    return f"of {count} of its {len(graph.kept_whole)} layers, {reason}"


def _refusal(layer: str, graph: ChannelGraph) -> str:
    root = graph.root(layer)
    if root is not None:
        return f"pruning: the channels of layer {layer!r} are coupled with those of {root!r}; name {root!r} instead"
    if layer in graph.kept_whole:
        return f"pruning: layer {layer!r} cannot be pruned: {graph.kept_whole[layer]}"
    return f"pruning: layer {layer!r} has no channels to remove{did_you_mean(layer, graph.groups)}"
