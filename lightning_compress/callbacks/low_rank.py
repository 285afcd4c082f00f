"""Low rank: layers become chains of smaller ones, by SVD (linear, 1x1 convolutions) or Tucker-2 (k x k convolutions).

    rank = round(ratio x channels);     a layer stays whole where its ranks would not save MACs

Sources: Kim et al. 2016 (arXiv 1511.06530) for Tucker-2, Denton et al. 2014 (arXiv 1404.0736) for SVD, GeneCAI (phase
D) for a search over ranks with factors computed once. factors/ has the formulas. The factors are ordinary layers, named
``conv1.0``, ``conv1.1``, ...: later stages prune or quantize them like others, and what a plan of the same stage says
of ``conv1`` is said of each of them. It breaks without fine-tuning: the error of a weight says little about that of
the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, ClassVar, final

from lightning import LightningModule
from torch import nn
from typing_extensions import override

from lightning_compress.callbacks.base.callback import CompressionCallback
from lightning_compress.callbacks.base.output_errors import output_error, record_calls
from lightning_compress.core.activations import chained
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan, as_globs, matching
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.core.space import Choice
from lightning_compress.surgery import measure
from lightning_compress.surgery.calibration import calibration_of, drop_calibration, store_calibration
from lightning_compress.surgery.low_rank.factors import Basis, Factors
from lightning_compress.surgery.low_rank.svd import SVD
from lightning_compress.surgery.low_rank.tucker import Tucker2
from lightning_compress.surgery.replacement import replace_module
from lightning_compress.surgery.structure import network
from lightning_compress.surgery.transforms import check_plain, drop_output, input_transform

KEY = "low_rank"
PLAIN = {cls.forward for cls in (*measure.CONV, *measure.LINEAR)}


@final
class LowRank(CompressionCallback):
    """Factorizes layers; the knobs are ratios in (0, 1].

    ``rank_in`` is the share of the input channels and ``rank_out`` of the output channels that a k x k convolution
    keeps between its factors. A linear layer or 1x1 convolution has ``rank_out`` alone, the share of the smaller of
    both. A knob that is not given is 1.

    Args:
        plan: see :class:`CompressionCallback`.
        bins: a search may choose ranks of 1, 2, ..., ``bins`` times the channels / ``bins`` (GeneCAI: 8).
        refinements: sweeps of higher-order orthogonal iteration for each Tucker-2; 0 takes slices of one SVD.
        ignore: globs of layers that a search leaves whole.

    Raises:
        CompressError: a layer of the plan cannot be factorized, has no such rank, or a ratio is out of range.
        NoEffectError: a glob of ``ignore`` matches no layer.
    """

    kind: ClassVar[str] = "low_rank"
    after: ClassVar[frozenset[str]] = frozenset({"layer_removal", "channel_pruning"})
    removes: ClassVar[bool] = True
    knobs: ClassVar[Mapping[str, str]] = {
        "rank_in": "rank, of the input channels",
        "rank_out": "rank, of the output channels",
    }

    def __init__(
        self,
        plan: Plan | str | Path | Mapping[str, Any] | None = None,
        bins: int = 8,
        refinements: int = 0,
        ignore: Sequence[str] = (),
    ) -> None:
        super().__init__(plan)
        if bins < 2 or refinements < 0:
            raise CompressError(
                f"LowRank: bins must be 2 or more and refinements 0 or more, got {bins} and {refinements}"
            )
        self.bins, self.refinements, self.ignore = bins, refinements, as_globs(ignore)

    def why_kept(self, layer: LayerProfile, net: nn.Module) -> str:
        """Return why a layer is not factorized."""
        return _refusal(net, layer) or "factors of no rank take less than the layer"

    @override
    def choices(self, net: nn.Module, profile: Profile, example: Any) -> list[Choice]:
        names = [layer.name for layer in profile.weighted]
        ignored = {name for pattern in self.ignore for name in matching(pattern, names)}
        free = [p for p in profile.weighted if p.name not in ignored and _refusal(net, p) is None]
        found = [Choice(p.name, knob, values) for p in free for knob, values in self._ratios(p).items()]
        return [choice for choice in found if len(choice.values) > 1]

    @override
    def resolve(self, plan: Plan, net: nn.Module, profile: Profile, example: Any) -> Plan:
        layers = {layer.name: layer for layer in profile.weighted}
        for name, ratios in self.own(plan).layers.items():
            reason = _refusal(net, layers[name]) if name in layers else "it is no Conv or Linear"
            if reason is not None:
                raise CompressError(f"LowRank: layer {name!r} cannot be factorized: {reason}")
            for knob, ratio in ratios.items():
                if knob not in _kind(layers[name]).knobs:
                    raise CompressError(f"LowRank: layer {name!r} has no {knob}, only one rank: use 'rank_out'")
                if not 0 < ratio <= 1:
                    raise CompressError(f"LowRank: {knob} of layer {name!r} must be above 0 and at most 1, got {ratio}")
        whole = {}
        for name, ranks in self._factorized(plan, profile).items():
            full = _kind(layers[name]).full(layers[name])
            whole[name] = {knob: rank / full[knob] for knob, rank in ranks.items()}
        return Plan(whole)

    @override
    def predict(self, plan: Plan, profile: Profile) -> Profile:
        chosen = self._factorized(plan, profile)
        if not chosen:
            return profile
        parts = {name: _kind(profile[name]).profiles(profile[name], **ranks) for name, ranks in chosen.items()}
        found = [part for layer in profile for part in parts.get(layer.name, [layer])]
        last = {name: factors[-1].name for name, factors in parts.items()}
        steps = profile.steps
        for name, factors in parts.items():
            steps = chained(steps, name, [(factor.name, factor.positions) for factor in factors])
        return Profile({p.name: replace(p, follows=last.get(p.follows, p.follows)) for p in found}, steps)

    def calibrate(self, module: LightningModule, batches: Iterable[Any]) -> None:
        """Decompose all layers before a search, for all candidates at once; no batch is read."""
        net = network(module)
        if self.plan is None:
            plain = {n: m for n, m in net.named_modules() if type(m).forward in PLAIN and getattr(m, "groups", 1) == 1}
            ignored = {name for pattern in self.ignore for name in matching(pattern, plain)}
            free = {n: m for n, m in plain.items() if n not in ignored and m.weight.isfinite().all()}
            store_calibration(net, KEY, {n: _kind_of(m).decompose(m.weight) for n, m in free.items()})

    def output_errors(
        self, choices: Sequence[Choice], net: nn.Module, profile: Profile, example: Any, batches: Sequence[Any]
    ) -> list[list[float]]:
        """Return the error of each layer with one rank at each value and the other full, whatever that saves."""
        calls = record_calls(net, list(dict.fromkeys(choice.layer for choice in choices)), batches[0])
        known: Mapping[str, Basis] = calibration_of(net, KEY) or {}
        errors = []
        for choice in choices:
            old, kind = net.get_submodule(choice.layer), _kind(profile[choice.layer])
            basis = known[choice.layer] if choice.layer in known else kind.decompose(old.weight)
            full, found = kind.full(profile[choice.layer]), []
            for ratio in choice.values:
                ranks = {**full, choice.knob: max(1, round(ratio * full[choice.knob]))}
                new = kind.like(old, **ranks)
                new.fill(kind.weights(basis, old.weight, self.refinements, **ranks), old.bias)
                found.append(output_error(new, calls[choice.layer]) if ratio < 1 else 0.0)
            errors.append(found)
        return errors

    @override
    def attach(self, plan: Plan, net: nn.Module, profile: Profile, example: Any) -> None:
        known: Mapping[str, Basis] = calibration_of(net, KEY) or {}
        for name, ranks in self._factorized(plan, profile).items():
            old = net.get_submodule(name)
            check_plain(name, old, "LowRank")
            drop_output(old)  # learned noise has ended, or has the widths of before
            kind = _kind(profile[name])
            basis = known[name] if name in known else kind.decompose(old.weight)
            new = kind.like(old, **ranks)
            new.fill(kind.weights(basis, old.weight, self.refinements, **ranks), old.bias)
            replace_module(net, name, new)
        drop_calibration(net)

    def _factorized(self, plan: Plan, profile: Profile) -> dict[str, dict[str, int]]:
        """Return layer -> its ranks, for layers whose ranks save MACs."""
        found = {}
        for name, ratios in self.own(plan).layers.items():
            full = _kind(profile[name]).full(profile[name])
            ranks = {knob: max(1, round(ratios.get(knob, 1.0) * most)) for knob, most in full.items()}
            if _saves(profile[name], ranks):
                found[name] = ranks
        return found

    def _ratios(self, layer: LayerProfile) -> dict[str, tuple[float, ...]]:
        """Return knob -> the values with which the layer can get smaller, and 1."""
        full = _kind(layer).full(layer)
        shares = [i / self.bins for i in range(1, self.bins + 1)]
        ranks = [sorted({max(1, round(share * most)) for share in shares}) for most in full.values()]
        saving = [pair for pair in product(*ranks) if _saves(layer, dict(zip(full, pair, strict=True)))]
        useful = [sorted({*(pair[i] for pair in saving), most}) for i, most in enumerate(full.values())]
        return {k: tuple(rank / full[k] for rank in found) for k, found in zip(full, useful, strict=True)}


def _kind(layer: LayerProfile) -> type[Factors]:
    return Tucker2 if layer.kind == "conv" and prod(layer.kernel) > 1 else SVD


def _kind_of(layer: nn.Module) -> type[Factors]:
    return Tucker2 if layer.weight.dim() > 2 and layer.weight[0, 0].numel() > 1 else SVD


def _saves(layer: LayerProfile, ranks: Mapping[str, int]) -> bool:
    return sum(part.macs for part in _kind(layer).profiles(layer, **ranks)) < layer.macs


def _refusal(net: nn.Module, layer: LayerProfile) -> str | None:
    """Return why a layer cannot be factorized, or None."""
    module = net.get_submodule(layer.name)
    if layer.groups > 1:
        return f"it has {layer.groups} groups"
    if not layer.positions:
        return "its own forward pass never runs"
    if type(module).forward not in PLAIN:
        return f"{type(module).__name__} has a forward pass of its own"
    if not module.weight.isfinite().all():
        return "its weight is not finite"
    if input_transform(module) is not None or layer.density < 1 or layer.weight_bits < 32:
        return "it is quantized or masked; factorize in a stage before that"
    return None
