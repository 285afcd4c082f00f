"""A callback: the smallest weights of each output channel become zero, as many in each, before any training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, final

import torch
from torch import nn

from lightning_compress.callbacks.base.callback import CompressionCallback
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.core.space import Choice
from lightning_compress.surgery.mask import Mask
from lightning_compress.surgery.transforms import attach_weight, check_plain

SHARES = (0.25, 0.5, 0.75, 1.0)


@final
class SmallWeights(CompressionCallback):
    """Keeps the share ``acme_share`` of the weights of each output channel."""

    kind: ClassVar[str] = "acme_small_weights"
    after: ClassVar[frozenset[str]] = frozenset({"layer_removal", "channel_pruning", "low_rank"})
    before: ClassVar[frozenset[str]] = frozenset({"quantization"})  # which does not know of this one
    knobs: ClassVar[Mapping[str, str]] = {"acme_share": "weights kept in each channel"}

    def choices(self, net: nn.Module, profile: Profile, example: Any) -> list[Choice]:
        return [Choice(layer.name, "acme_share", SHARES) for layer in profile.weighted if layer.positions]

    def resolve(self, plan: Plan, net: nn.Module, profile: Profile, example: Any) -> Plan:
        found = {}
        for name, share in self.own(plan).knob("acme_share").items():
            if not 0 < share <= 1:
                raise CompressError(f"acme: acme_share of layer {name!r} must be in (0, 1], got {share}")
            if (density := _density(profile[name], share)) < 1:
                found[name] = {"acme_share": density}
        return Plan(found)

    def predict(self, plan: Plan, profile: Profile) -> Profile:
        shares = plan.knob("acme_share").items()
        return profile.update(
            replace(profile[name], density=_density(profile[name], share), mask_unit=1) for name, share in shares
        )

    def attach(self, plan: Plan, net: nn.Module, profile: Profile, example: Any) -> None:
        for name, share in plan.knob("acme_share").items():
            layer = net.get_submodule(name)
            check_plain(name, layer, type(self).__name__)
            rows = layer.weight.detach().abs().flatten(1)
            kept = torch.zeros_like(rows, dtype=torch.bool)
            kept.scatter_(1, rows.topk(_kept(rows.shape[1], share)).indices, True)
            mask = Mask(layer.weight.shape).to(layer.weight.device)
            mask.mask.copy_(kept.view(layer.weight.shape))
            mask.settled.fill_(True)
            attach_weight(layer, mask)


def _kept(width: int, share: float) -> int:
    return max(round(width * share), 1)


def _density(layer: LayerProfile, share: float) -> float:
    width = layer.weights // layer.out_channels
    return _kept(width, share) / width
