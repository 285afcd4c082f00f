"""The plan: layer name -> knob -> number. *How much* to compress each layer, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import overload

import yaml

from lightning_compress.core.atomic_write import atomic_write
from lightning_compress.core.errors import CompressError, NoEffectError, did_you_mean
from lightning_compress.core.yaml_file import read_yaml

Number = int | float


@dataclass(frozen=True)
class Plan:
    """Frozen plain data that say how much each layer is compressed.

    Layer names are the names in ``network.named_modules()``; knobs are the words the callbacks declare
    (``channels``, ``weight_bits``, ...). Numbers of any numeric type (numpy too) become plain ``int`` or ``float``.

    >>> plan = Plan({"conv1": {"weight_bits": 4}})
    >>> plan.get("conv1", "weight_bits"), plan.get("fc", "weight_bits", 32)
    (4, 32)

    Raises:
        CompressError: a name is no text, a value is not a finite number, or a layer's entry is not a mapping.
    """

    layers: Mapping[str, Mapping[str, Number]]

    def __post_init__(self) -> None:
        frozen = {}
        _check_names(self.layers)
        for layer in sorted(self.layers):
            knobs = self.layers[layer]
            if not isinstance(knobs, (dict, Mapping)):  # a plain type is much faster to see
                raise CompressError(f"plan: layer {layer!r} must map knobs to numbers, got {knobs!r}")
            _check_names(knobs)
            frozen[layer] = MappingProxyType({k: _plain(layer, k, knobs[k]) for k in sorted(knobs)})
        object.__setattr__(self, "layers", MappingProxyType(frozen))

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[object, ...]:
        return Plan, (self.to_dict(),)

    @overload
    def get(self, layer: str, knob: str) -> Number | None: ...

    @overload
    def get(self, layer: str, knob: str, default: Number) -> Number: ...

    def get(self, layer: str, knob: str, default: Number | None = None) -> Number | None:
        """Return the number for ``knob`` at ``layer``, or ``default`` when the plan says nothing about it."""
        return self.layers.get(layer, {}).get(knob, default)

    def knob(self, name: str) -> dict[str, Number]:
        """Return layer -> number for one knob, for the layers that the plan names."""
        return {layer: knobs[name] for layer, knobs in self.layers.items() if name in knobs}

    @property
    def knobs(self) -> set[str]:
        """Every knob that occurs in the plan."""
        return {k for knobs in self.layers.values() for k in knobs}

    def merge(self, other: Plan) -> Plan:
        """Return both plans as one; where both name a knob of a layer, ``other`` wins."""
        names = [*self.layers, *other.layers]
        return Plan({n: {**self.layers.get(n, {}), **other.layers.get(n, {})} for n in names})

    @property
    def digest(self) -> str:
        """16 hex digits that are equal exactly when the plans are."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def check(self, layers: Collection[str], knobs: Collection[str]) -> None:
        """Raise unless every layer and every knob of the plan is known.

        Raises:
            CompressError: with the unknown name, and the closest known one.
        """
        for layer, values in self.layers.items():
            if layer not in layers:
                raise CompressError(f"plan: the network has no layer {layer!r}{_hint(layer, layers)}")
            for knob in values:
                if knob not in knobs:
                    raise CompressError(
                        f"plan: layer {layer!r} sets {knob!r}, which no callback of this run understands; "
                        f"they understand {sorted(knobs)}{did_you_mean(knob, knobs)}"
                    )

    @classmethod
    def resolve(cls, patterns: Mapping[str, Mapping[str, Number]], layers: Iterable[str]) -> Plan:
        """Turn globs (``layer2.*``) into a plan over ``layers``; where several match, the last one wins.

        Raises:
            NoEffectError: a pattern matches no layer.
        """
        names, plan = list(layers), cls({})
        for pattern, knobs in patterns.items():
            plan = plan.merge(cls(dict.fromkeys(matching(pattern, names), knobs)))
        return plan

    def to_dict(self) -> dict[str, dict[str, Number]]:
        """Return plain nested dicts for YAML, JSON and checkpoints that load with ``weights_only=True``."""
        return {layer: dict(knobs) for layer, knobs in self.layers.items()}

    def save(self, path: str | Path) -> None:
        """Write the plan as YAML."""
        with atomic_write(Path(path)) as part:
            part.write_text(yaml.safe_dump({"layers": self.to_dict()}, sort_keys=False))

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan (or the plan inside a recipe) from YAML.

        Raises:
            CompressError: the file is missing or no YAML, or has no ``layers`` mapping.
        """
        data = read_yaml(Path(path), "plan")
        data = data.get("plan", data) if isinstance(data, Mapping) else data
        if not isinstance(data, Mapping) or not isinstance(data.get("layers"), Mapping):
            raise CompressError(f"plan: {str(path)!r} must hold 'layers:', a mapping of layer names to knobs")
        return cls(data["layers"])


def as_globs(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return globs as a tuple; a text is one glob.

    >>> as_globs("conv1"), as_globs(["conv1", "fc*"])
    (('conv1',), ('conv1', 'fc*'))
    """
    return (given,) if isinstance(given, str) else tuple(given)


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that a glob matches, in order.

    Raises:
        NoEffectError: it matches none.
    """
    names = list(names)
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise NoEffectError(f"the pattern {pattern!r} matches no layer{did_you_mean(pattern, names)}")
    return found


def _hint(layer: str, layers: Collection[str]) -> str:
    """Return what may have been meant by the name of a layer that is not there."""
    inside = layer.partition(".")[2]
    if inside in layers:
        return f"; names begin inside the network, which is {layer.removesuffix(inside)[:-1]!r} here: {inside!r}"
    if set("*?[") & set(layer):
        return "; make plans of patterns with Plan.resolve(patterns, layers)"
    return f"{did_you_mean(layer, layers)} (a plan found for another network cannot be applied to this one)"


def _check_names(names: Iterable[object]) -> None:
    """Raise unless all names are text; YAML reads one of digits as a number."""
    for name in names:
        if not isinstance(name, str):
            raise CompressError(
                f"plan: names of layers and knobs are text, got {name!r} of type {type(name).__name__}; put it in "
                f"quotes: {str(name)!r}"
            )


def _plain(layer: str, knob: str, value: object) -> Number:
    """Return the value as a plain int or float; bool, text, NaN and infinity are errors."""
    if type(value) is int or (type(value) is float and isfinite(value)):
        return value  # nearly all are, and a search makes a plan of each of its trials
    item = value.item() if hasattr(value, "item") else value
    if isinstance(item, bool) or not isinstance(item, (int, float)) or not isfinite(item):
        raise CompressError(f"plan: {knob!r} of layer {layer!r} must be a finite number, got {value!r}")
    return item
