"""Base class of callbacks whose sparsity is learned in training; a plan only says which layers take part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

from torch import nn
from typing_extensions import override

from lightning_compress.callbacks.base.callback import CompressionCallback
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan, as_globs, matching
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.core.space import Choice


class LearnedSparsityCallback(CompressionCallback):
    """A callback with one knob, which is 1 for the layers that take part.

    Args:
        plan: see :class:`CompressionCallback`.
        ignore: globs of layers that a uniform plan leaves out.

    Attributes:
        name: in messages.
        refusal: what is said of a layer that cannot take part.

    Raises:
        CompressError: a layer of the plan cannot take part, or a value that is neither 0 nor 1.
        NoEffectError: a glob of ``ignore`` matches no layer.
    """

    steady: ClassVar[bool] = False
    name: ClassVar[str]
    refusal: ClassVar[str]

    def __init__(self, plan: Plan | str | Path | Mapping[str, Any] | None = None, ignore: Sequence[str] = ()) -> None:
        super().__init__(plan)
        self.ignore = as_globs(ignore)

    def eligible(self, profile: Profile) -> list[LayerProfile]:
        """Return the layers that may take part."""
        return profile.weighted

    def why_kept(self, layer: LayerProfile, net: nn.Module) -> str:
        """Return why a layer takes no part."""
        return f"it {self.refusal}"

    @final
    def choices(self, net: nn.Module, profile: Profile, example: Any) -> list[Choice]:
        """Return one value for each layer: there is nothing to search, a uniform plan names them all."""
        (knob,) = self.knobs
        names = [layer.name for layer in self.eligible(profile) if layer.positions]
        ignored = {name for pattern in self.ignore for name in matching(pattern, names)}
        return [Choice(name, knob, (1,)) for name in names if name not in ignored]

    @final
    @override
    def resolve(self, plan: Plan, net: nn.Module, profile: Profile, example: Any) -> Plan:
        (knob,) = self.knobs
        values, names = self.own(plan).knob(knob), {layer.name for layer in self.eligible(profile)}
        for layer, value in values.items():
            if layer not in names:
                raise CompressError(f"{self.name}: layer {layer!r} {self.refusal}; the plan may name {sorted(names)}")
            if value not in (0, 1):
                raise CompressError(f"{self.name}: {knob} of layer {layer!r} must be 0 or 1, got {value}")
        return Plan({layer: {knob: 1} for layer, value in values.items() if value})

    def predict(self, plan: Plan, profile: Profile) -> Profile:
        """Return the profile as it is: what comes out is not known before training."""
        return profile
