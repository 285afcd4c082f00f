"""Weight pruning: single weights, or whole ``k x k`` slices of them, become zero and stay zero.

    y = layer(x; mask * w),     mask: the round(density x units) units of the largest magnitude

Sources: Han et al. 2015 (arXiv 1506.02626) for magnitudes, Zhu and Gupta 2017 (arXiv 1710.01878) for the gradual
schedule. Shapes stay, so it takes bytes off the packed file (kept values, and positions as a bitmask or entropy-coded,
whichever is smaller) and MACs only where the hardware skips zeros: reports name both. Structure is set up front and
only the values of the mask change during training, by the step number alone. At densities below a few per cent use
NetworkWide, variational dropout, or JointSparsityQuantization rather than the same density everywhere. It breaks where
the schedule leaves few steps after its end: the network then has no time to get used to its last mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from lightning import LightningModule, Trainer
from torch import nn
from typing_extensions import override

from lightning_compress.callbacks.base.callback import CompressionCallback
from lightning_compress.callbacks.base.progress import progress, steps_done
from lightning_compress.core.errors import CompressError
from lightning_compress.core.instances import check_instances
from lightning_compress.core.plan import Number, Plan, as_globs, matching
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.core.space import Choice
from lightning_compress.pruning.patterns.element import Element
from lightning_compress.pruning.patterns.n_of_m import NofM
from lightning_compress.pruning.patterns.pattern import Pattern
from lightning_compress.pruning.schedules.one_shot import OneShot
from lightning_compress.pruning.schedules.schedule import Schedule
from lightning_compress.pruning.scopes.per_layer import PerLayer
from lightning_compress.pruning.scopes.scope import Scope
from lightning_compress.surgery.mask import Mask
from lightning_compress.surgery.matrices import weight_place
from lightning_compress.surgery.structure import applied_structure, network
from lightning_compress.surgery.transforms import attach_weight, check_plain, raw_weight, weight_transforms


@final
class WeightPruning(CompressionCallback):
    """Masks weights; the knob ``density`` is the share of a layer's weights that stay, in (0, 1].

    Args:
        plan: see :class:`CompressionCallback`.
        pattern: which weights are dropped together.
        schedule: how density falls during a training.
        scope: whether weights compete within their layer or in the whole network.
        every: optimizer steps between two updates of the masks.
        densities: what a search may choose from; N:M has but one below 1.
        ignore: globs of layers that a search leaves dense.

    Raises:
        CompressError: a layer is no Conv or Linear, or a density that the pattern cannot have; a pattern that leaves a
            scope no choice.
        NoEffectError: a glob of ``ignore`` matches no layer.
    """

    kind: ClassVar[str] = "weight_pruning"
    after: ClassVar[frozenset[str]] = frozenset(
        {"layer_removal", "channel_pruning", "low_rank", "log_normal_dropout", "information_dropout"}
    )
    removes: ClassVar[bool] = True
    knobs: ClassVar[Mapping[str, str]] = {"density": "weights kept"}

    def __init__(
        self,
        plan: Plan | str | Path | Mapping[str, Any] | None = None,
        pattern: Pattern | None = None,
        schedule: Schedule | None = None,
        scope: Scope | None = None,
        every: int = 10,
        densities: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        ignore: Sequence[str] = (),
    ) -> None:
        super().__init__(plan)
        check_instances(
            "WeightPruning", pattern=(pattern, Pattern), schedule=(schedule, Schedule), scope=(scope, Scope)
        )
        if not 1 <= every < inf:
            raise CompressError(f"WeightPruning: every must be 1 step or more, got {every}")
        self.pattern = Element() if pattern is None else pattern
        self.schedule = OneShot() if schedule is None else schedule
        self.scope = PerLayer() if scope is None else scope
        if isinstance(self.pattern, NofM) and not isinstance(self.scope, PerLayer):
            raise CompressError(
                f"WeightPruning: NofM keeps {self.pattern.n} of {self.pattern.m} weights in every layer, so "
                f"{type(self.scope).__name__} has nothing to share out between layers; use PerLayer with it "
                f"(compress/scope=per_layer), or another pattern"
            )
        self.every, self.densities, self.ignore = every, tuple(densities), as_globs(ignore)

    def why_kept(self, layer: LayerProfile, net: nn.Module) -> str:
        """Return why a layer stays dense."""
        return f"{type(self.pattern).__name__} leaves it no density to choose"

    @override
    def choices(self, net: nn.Module, profile: Profile, example: Any) -> list[Choice]:
        layers = [layer for layer in profile.weighted if layer.positions]
        ignored = {n for pattern in self.ignore for n in matching(pattern, [layer.name for layer in layers])}
        found = [(layer, self._possible(layer)) for layer in layers if layer.name not in ignored]
        return [Choice(layer.name, "density", values) for layer, values in found if len(values) > 1]

    @override
    def resolve(self, plan: Plan, net: nn.Module, profile: Profile, example: Any) -> Plan:
        layers = {layer.name: layer for layer in profile.weighted}
        kept, units, scores = {}, {}, {}
        for name, density in self.own(plan).knob("density").items():
            if name not in layers:
                kind = type(weight_place(net, name)[0]).__name__
                raise CompressError(
                    f"pruning: layer {name!r} is a {kind}, and only Conv and Linear layers are pruned; the plan may "
                    f"name {sorted(layers)}"
                )
            if not 0 < density <= 1:
                raise CompressError(f"pruning: density of layer {name!r} must be above 0 and at most 1, got {density}")
            kept[name], units[name] = self.pattern.kept(layers[name], density), self.pattern.unit(layers[name])
            scores[name] = self._unit_scores(net, layers[name])
        shares = {name: self._share(layers[name], count) for name, count in self.scope(kept, scores, units).items()}
        return Plan({name: {"density": share} for name, share in shares.items() if share < 1})

    @override
    def predict(self, plan: Plan, profile: Profile) -> Profile:
        layers = {name: profile[name] for name in plan.layers}
        # Rounded as resolve does, so that a plan costs what is built of it.
        shares = {
            n: self._share(layer, self.pattern.kept(layer, plan.layers[n]["density"])) for n, layer in layers.items()
        }
        masked = {name: share for name, share in shares.items() if share < 1}
        return profile.update(
            replace(layers[name], density=share, mask_unit=self.pattern.unit(layers[name]))
            for name, share in masked.items()
        )

    @override
    def attach(self, plan: Plan, net: nn.Module, profile: Profile, example: Any) -> None:
        for name, density in plan.knob("density").items():
            layer = net.get_submodule(name)
            check_plain(name, layer, "WeightPruning")
            weight = layer.weight.detach()
            mask = Mask(weight.shape).to(weight.device)
            mask.mask.copy_(self.pattern.mask(profile[name], weight.abs(), self.pattern.kept(profile[name], density)))
            attach_weight(layer, mask)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Move the masks on to where the schedule is at this step."""
        step = steps_done(trainer)
        share = self._scheduled(trainer, step)
        if not step or share != self._scheduled(trainer, step - 1):
            self._prune(network(pl_module), share)

    @override
    def finish(self, net: nn.Module) -> None:
        """Prune to the plan's density."""
        self._prune(net, 1.0)

    def _scheduled(self, trainer: Trainer, step: int) -> float:
        return self.schedule(progress(trainer, "WeightPruning", step // self.every * self.every))

    @torch.no_grad()
    def _prune(self, net: nn.Module, share: float) -> None:
        record = applied_structure(net)
        for name, density in record.applied[self.kind].knob("density").items():
            module, layer = net.get_submodule(name), record.profile[name]
            (mask,) = (t for t in weight_transforms(module) if isinstance(t, Mask))
            if mask.settled:  # by an earlier training
                continue
            scores = raw_weight(module).abs() + torch.finfo(torch.float32).tiny  # an exact zero may be kept
            units = layer.weights // self.pattern.unit(layer)
            kept = units - round((units - self.pattern.kept(layer, density)) * share)
            # A new mask has the plan's density, for scores without training; the schedule starts from the dense weight.
            alive = mask.mask if mask.begun else torch.ones_like(mask.mask)
            mask.mask.copy_(self.pattern.mask(layer, scores * alive, kept) & alive)
            mask.begun.fill_(True)
            mask.settled.fill_(share >= 1)

    def _unit_scores(self, net: nn.Module, layer: LayerProfile) -> torch.Tensor:
        module = dict(net.named_modules()).get(layer.name)  # None for what another callback has yet to make
        weight = torch.empty(0) if module is None else module.weight.detach()
        if weight.numel() != layer.weights and not isinstance(self.scope, PerLayer):
            raise CompressError(
                f"pruning: {type(self.scope).__name__} ranks the weights of layer {layer.name!r}, which another "
                f"callback of this stage changes first; prune weights in a stage after it"
            )
        return self.pattern.unit_scores(layer, weight.abs()) if weight.numel() == layer.weights else weight.new_empty(0)

    def _share(self, layer: LayerProfile, kept: int) -> Number:
        return min(kept * self.pattern.unit(layer) / max(layer.weights, 1), 1)

    def _possible(self, layer: LayerProfile) -> tuple[float, ...]:
        """Return the densities of a search that the pattern can have at this layer."""
        pattern, found = self.pattern, []
        for density in (pattern.n / pattern.m, 1.0) if isinstance(pattern, NofM) else self.densities:
            try:
                pattern.kept(layer, density)
            except CompressError:
                continue
            found.append(density)
        return tuple(found)
