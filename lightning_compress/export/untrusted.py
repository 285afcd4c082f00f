"""Check what the description of a packed file says before anything is made of it.

A description may be damaged or hostile. What passes here is a profile of whole numbers that fit each other, so that
sizes computed from it are those of layers; whether a network can hold them is for :mod:`.fitting`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from math import prod
from typing import Any, TypeVar

from lightning_compress.core.profile import WITH_WEIGHT, LayerProfile, Profile

T = TypeVar("T")

COUNTS = [f.name for f in fields(LayerProfile) if f.type == "int"]
STORED = {*WITH_WEIGHT, "norm", "parameter", "buffer", "folded"}
WEIGHT_BITS = {*range(1, 9), 32}
ACT_BITS = {*range(2, 9), 32}


def check_keys(what: str, data: Mapping[str, Any], needed: Iterable[str], others: Iterable[str] = ()) -> None:
    """Raise unless a mapping has the needed keys, and none that nothing reads.

    Raises:
        ValueError: it lacks one or has another.
    """
    needed, known = set(needed), {*needed, *others}
    if not isinstance(data, Mapping) or not needed <= data.keys() <= known:
        raise ValueError(f"{what} must have {sorted(needed)} and may have {sorted(known - needed)}")


def check_names(names: Sequence[str]) -> None:
    """Raise unless names are text, each there once.

    Raises:
        ValueError: they are not.
    """
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError("names of layers must be text, each there once")


def pick(items: Sequence[T], index: Any) -> T:
    """Return an item; a negative index is none.

    Raises:
        ValueError: there is none of that index.
    """
    if type(index) is not int or not 0 <= index < len(items):
        raise ValueError(f"there is no item {index!r} of {len(items)}")
    return items[index]


def check_arguments(what: str, arguments: Mapping[str, Any], largest: int) -> None:
    """Raise unless the arguments of a constructor are numbers, text, or the shape of at most so many values.

    Raises:
        ValueError: one is something else.
    """
    for key, value in arguments.items():
        if isinstance(value, list):
            if not all(type(size) is int and size >= 0 for size in value) or prod(value) > largest or len(value) > 5:
                raise ValueError(f"{what}: {key}={str(value)[:60]} is no shape of at most {largest} values")
        elif not isinstance(value, (int, float, str)) or (not isinstance(value, str) and abs(value) > largest + 256):
            raise ValueError(f"{what}: {key}={str(value)[:60]} cannot be")


def check_profile(profile: Profile) -> None:
    """Raise unless the fields of each layer fit each other.

    Raises:
        ValueError: naming the layer and the field.
    """
    norms: set[str] = set()
    for layer in profile:
        _check_counts(layer)
        _check_kind(layer)
        if layer.follows:
            owner = profile.layers.get(layer.follows)
            fits = owner is not None and owner.weights and owner.out_channels == layer.out_channels
            if layer.kind != "norm" or not layer.buffers or not fits or layer.follows in norms:
                raise ValueError(f"layer {layer.name!r} cannot be folded into {layer.follows!r}")
            norms.add(layer.follows)


def _check_counts(layer: LayerProfile) -> None:
    for key in COUNTS:
        value = getattr(layer, key)
        if type(value) is not int or value < 0:
            raise ValueError(f"layer {layer.name!r}: {key} must be a whole number, got {str(value)[:60]}")
    if layer.kind not in STORED:
        raise ValueError(f"layer {layer.name!r}: kind {str(layer.kind)[:60]!r} is not known")
    if not all(type(size) is int and size > 0 for size in layer.kernel) or len(layer.kernel) > 3:
        raise ValueError(f"layer {layer.name!r}: kernel {str(layer.kernel)[:60]} cannot be")
    if layer.weight_bits not in WEIGHT_BITS or layer.act_bits not in ACT_BITS:
        raise ValueError(f"layer {layer.name!r}: {layer.weight_bits} and {layer.act_bits} bits cannot be")


def _check_kind(layer: LayerProfile) -> None:
    """Check what only layers with a weight may have, and what of it."""
    weighted, quantized = layer.kind in WITH_WEIGHT, layer.weight_bits < 32
    own = (layer.weight_scales, layer.codebook, layer.act_scales, layer.mask_unit)
    if not weighted:
        if any(own) or quantized or layer.act_bits < 32 or layer.kernel or not isinstance(layer.density, float):
            raise ValueError(f"layer {layer.name!r}: a {layer.kind} has no weight to compress")
        if layer.kind == "folded" and (layer.extras or layer.buffers):
            raise ValueError(f"layer {layer.name!r} is folded and has values of its own")
        return
    unit = max(layer.mask_unit, 1)
    right = {
        "channels": layer.groups > 0 < layer.out_channels and layer.in_channels > 0,
        "groups": layer.groups > 0 and not (layer.in_channels % layer.groups or layer.out_channels % layer.groups),
        "kernel": bool(layer.kernel) == (layer.kind in ("conv", "conv_transpose")),
        "extras": layer.extras <= int(layer.kind != "matrix") and not layer.buffers,
        "weight_scales": layer.weight_scales in ((0, 1, layer.out_channels) if quantized else (0,)),
        "codebook": layer.codebook <= (2**layer.weight_bits if quantized else 0),
        "act_scales": layer.act_scales in ((0,) if layer.kind == "matrix" else (0, 2)),
        "mask_unit": layer.kind in ("conv", "linear") or not layer.mask_unit,
        "density": 0 <= layer.density <= 1 and not (layer.weights % unit or layer.nonzeros % unit),
    }
    wrong = [key for key, fits in right.items() if not fits]
    if wrong:
        raise ValueError(f"layer {layer.name!r}: its {wrong[0]} cannot be")
