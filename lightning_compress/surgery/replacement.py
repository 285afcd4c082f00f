"""Modules that stand in the place of layers of the dense network: made again from plain data before weights load.

The network itself says what was replaced: :func:`describe` reads it, :func:`rebuild` does the same to a fresh network.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self

from torch import nn

from lightning_compress.core.errors import CompressError, did_you_mean
from lightning_compress.core.kinds import HasKind, class_of
from lightning_compress.core.plan import Number, Plan
from lightning_compress.core.profile import Profile
from lightning_compress.surgery._torch import own_children, take_hooks


class Replacement(nn.Module, HasKind):
    """Module in the place of a layer. Its own layers have names behind that of the layer: ``conv1.0``."""

    @classmethod
    def like(cls, old: nn.Module, **arguments: Any) -> Self:
        """Return a replacement of ``old`` whose weights are not set yet.

        Raises:
            CompressError: ``old`` cannot be replaced by this.
        """
        raise NotImplementedError

    def take_hooks(self, old: nn.Module) -> None:
        """Take over the hooks of the layer of before, which somebody put there to see or change what it gives."""
        take_hooks(self, old)

    def config(self) -> dict[str, Any]:
        """Return plain arguments with which :meth:`like` makes an equal structure again."""
        raise NotImplementedError

    def spec(self) -> dict[str, Any]:
        """Return the kind and the arguments, as plain types."""
        return {"kind": self.kind, **self.config()}


def describe(net: nn.Module) -> dict[str, dict[str, Any]]:
    """Return layer -> spec of its replacement as plain types, the outer before the inner."""
    return {name: module.spec() for name, module in net.named_modules() if isinstance(module, Replacement)}


def rebuild(net: nn.Module, description: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace the described layers; what is there already is left as it is.

    Raises:
        CompressError: a layer does not exist, or is of another kind or already replaced by something else.
    """
    for name in sorted(description, key=lambda name: name.count(".")):
        spec, modules = description[name], dict(net.named_modules())
        if name not in modules:
            raise CompressError(f"the saved network has a layer {name!r}, this one not{did_you_mean(name, modules)}")
        old = modules[name]
        if isinstance(old, Replacement) and old.spec() == spec:
            continue
        if isinstance(old, Replacement):
            raise CompressError(
                f"layer {name!r} was saved as {dict(spec)} but is {old.spec()} now: the file belongs to another plan. "
                f"Use the plan it was made with, or start from a fresh network"
            )
        arguments = {key: value for key, value in spec.items() if key != "kind"}
        replace_module(net, name, class_of(spec["kind"], Replacement).like(old, **arguments))


def spread(plan: Plan, replaced: Collection[str], profile: Profile) -> Plan:
    """Return the plan for the layers that stand in the place of replaced ones; drop removed layers.

    Args:
        plan: may name layers of the dense network and layers of the profile; of both, the latter win.
        replaced: names of layers that were replaced.
        profile: of the network as it is now.
    """
    if not replaced:
        return plan
    removed = [name for name in replaced if not profile.inside(name)]
    layers: dict[str, Mapping[str, Number]] = {}
    for name in sorted(plan.layers, key=lambda name: name.count(".")):
        targets = [name]
        if name not in profile.layers and name in replaced:
            targets = [layer.name for layer in profile.inside(name) if layer.weights]
        elif any(name.startswith(f"{gone}.") for gone in removed):
            targets = []
        for target in targets:
            layers[target] = {**layers.get(target, {}), **plan.layers[name]}
    return Plan(layers)


def replace_module(net: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new`` where the sub-module ``name`` is, under each name that it has."""
    replace_modules(net, {name: new})


def replace_modules(net: nn.Module, new: Mapping[str, nn.Module]) -> None:
    """Put modules where the sub-modules of some names are, in one pass over the network.

    Args:
        net: is changed in place.
        new: name -> module; no name is inside another.
    """
    by_old = {net.get_submodule(name): module for name, module in new.items()}
    for parent in list(net.modules()):
        for key, child in own_children(parent).items():
            if child in by_old:
                own_children(parent)[key] = by_old[child]
    for old, module in by_old.items():
        if isinstance(module, Replacement):
            module.take_hooks(old)
