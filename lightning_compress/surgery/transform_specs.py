"""The transforms of a network as plain types, and a network with the transforms that were described."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lightning_compress.core.errors import CompressError, did_you_mean
from lightning_compress.surgery._torch import own_children
from lightning_compress.surgery.transforms import (
    INPUT,
    OUTPUT,
    WEIGHT,
    Transform,
    attach_input,
    attach_output,
    attach_weight,
    transformed,
    weight_chains,
    weight_transforms,
)

OTHERS = "weights"  # in a description: the transforms of weights with other names


def describe(net: nn.Module) -> dict[str, dict[str, Any]]:
    """Return layer -> specs of its transforms as plain types, for :func:`rebuild`.

    A transform at several places is described at the first one; the others say where that is.
    """
    found: dict[str, dict[str, Any]] = {}
    first: dict[int, dict[str, str]] = {}
    for name, layer in transformed(net).items():
        chains = {key: [t.spec() for t in chain] for key, chain in weight_chains(layer).items()}
        found[name] = {WEIGHT: chains.pop(WEIGHT, []), **({OTHERS: chains} if chains else {})}
        for slot in (INPUT, OUTPUT):
            if slot in own_children(layer):
                transform = getattr(layer, slot)
                found[name][slot] = first.get(id(transform)) or transform.spec()
                first.setdefault(id(transform), {"module": name, "slot": slot})
    return found


def rebuild(net: nn.Module, description: Mapping[str, Mapping[str, Any]]) -> None:
    """Attach the described transforms; those already there, as of an earlier stage, are left as they are.

    Raises:
        CompressError: a layer does not exist, or has transforms that are not described.
    """
    modules, present = dict(net.named_modules()), describe(net)
    for name, spec in description.items():
        if name not in modules:
            raise CompressError(f"the saved network has a layer {name!r}, this one not{did_you_mean(name, modules)}")
        there = present.get(name, {WEIGHT: []})
        if not _contains(spec, there):
            raise CompressError(
                f"layer {name!r} was saved with {spec} but now has {there}: the checkpoint belongs to another plan. "
                f"Use the plan it was trained with, or start from a fresh network"
            )
        for key, chain in _chains(spec).items():
            _complete(modules[name], chain, key)
        if INPUT in spec and INPUT not in there:
            attach_input(modules[name], _built(net, spec[INPUT]))
        if OUTPUT in spec and OUTPUT not in there:
            attach_output(modules[name], _built(net, spec[OUTPUT]))


def _built(net: nn.Module, spec: Mapping[str, Any]) -> Transform:
    """Return a new transform, or the one that is at the place that a spec names."""
    if "module" in spec:
        return getattr(net.get_submodule(spec["module"]), spec["slot"])
    return Transform.build(spec)


def _chains(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the described transforms of each weight."""
    return {WEIGHT: spec[WEIGHT], **spec.get(OTHERS, {})}


def _contains(spec: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    """Return whether all transforms that are there are described, those of each weight in the same order."""
    described = {key: iter(chain) for key, chain in _chains(spec).items()}
    return all(
        key in described and all(one in described[key] for one in chain) for key, chain in _chains(there).items()
    ) and all(spec.get(key) == there[key] for key in (INPUT, OUTPUT) if key in there)


def _complete(layer: nn.Module, specs: Sequence[Mapping[str, Any]], key: str) -> None:
    """Attach those of the described transforms of a weight that are missing, each at its place."""
    present, wanted = weight_transforms(layer, key), []
    for spec in specs:
        here = bool(present) and present[0].spec() == spec
        wanted.append(present.pop(0) if here else Transform.build(spec))
    for transform in wanted:
        if transform not in weight_transforms(layer, key):
            attach_weight(layer, transform, key=key)
    for place, transform in enumerate(wanted):
        layer.parametrizations[key][place] = transform
