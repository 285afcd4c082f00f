"""Check that a packed file fits a network, and give the network the shapes of the file."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from math import prod
from operator import gt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_compress.core.errors import CompressError, PackedFileError, did_you_mean
from lightning_compress.core.packed_size import weight_shape
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.export import untrusted
from lightning_compress.export.header import Description
from lightning_compress.surgery import measure, replacement, resize

DESCRIPTION_BYTES = 1 << 16
ENTRY_BYTES = 1 << 10  # of a layer, parameter or buffer: some 30 numbers, and those of the plans that made it


def replace(path: str | Path, net: nn.Module, replaced: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace the layers of a network that were replaced in the file's.

    Raises:
        PackedFileError: the network has no such layer.
        ValueError: an argument of what stands in its place is larger than the layer.
    """
    modules = dict(net.named_modules()) if replaced else {}
    for name, spec in replaced.items():
        if isinstance(modules.get(name), replacement.Replacement):
            continue
        own = {key: value for key, value in spec.items() if key != "kind"}
        sizes = [size for p in modules.get(name, net).parameters() for size in p.shape]
        untrusted.check_arguments(f"what stands in the place of {name!r}", own, max(sizes, default=1))
    try:
        replacement.rebuild(net, replaced)
    except CompressError as error:
        raise PackedFileError(f"{str(path)!r} was made for another network: {error}") from error


def shapes_of(net: nn.Module, profile: Profile) -> dict[str, list[int]]:
    """Return the shapes of the parameters of which more than one dimension behind the first may have lost channels.

    Args:
        net: the network.
        profile: of it.
    """
    shapes = {p.name: list(net.get_parameter(p.name).shape) for p in profile if p.kind == "parameter"}
    return {name: shape for name, shape in shapes.items() if sum(size > 1 for size in shape[1:]) > 1}


def check(path: str | Path, net: nn.Module, described: Description, tables: Mapping[str, Tensor]) -> None:
    """Raise unless file and network have the same layers and buffers, each at least as wide in the network.

    Raises:
        PackedFileError: naming the first layer or buffer that differs.
    """
    lazy = next((name for name, parameter in net.named_parameters() if is_lazy(parameter)), None)
    if lazy is not None:
        raise PackedFileError(
            f"{str(path)!r} cannot be loaded yet: {lazy!r} of {type(net).__name__} is lazy and has no shape before its "
            f"first forward pass; run it once on a batch, then load"
        )
    known, foreign = {p.name: p for p in measure.all_layers(net)}, f"{str(path)!r} was made for another network"
    profile = described.profile
    gone = {name for name, module in net.named_modules() if isinstance(module, nn.Identity)}  # folded before
    for layer in profile:
        if layer.kind == "folded" and layer.name in gone:
            continue
        if layer.name not in known:
            raise PackedFileError(
                f"{foreign}: it has a layer {layer.name!r}, {type(net).__name__} has "
                f"not{did_you_mean(layer.name, known)}"
            )
        if not _fits(net, known[layer.name], layer, described.shapes):
            raise PackedFileError(
                f"{foreign}: layer {layer.name!r} is {_words(layer)} there, and {_words(known[layer.name])} in this "
                f"{type(net).__name__}"
            )
    for name in known:
        if name not in profile.layers:
            raise PackedFileError(
                f"{foreign}: {type(net).__name__} has a layer {name!r}, the file has not"
                f"{did_you_mean(name, profile.layers)}"
            )
    if not described.shapes.keys() <= {layer.name for layer in profile if layer.kind == "parameter"}:
        raise ValueError("it holds shapes that belong to no parameter")
    _check_folded(foreign, net, profile, gone)
    _check_tables(foreign, net, profile, tables)


def _check_folded(foreign: str, net: nn.Module, profile: Profile, gone: Container[str]) -> None:
    for layer in profile:
        folded = layer.follows or (layer.kind == "folded" and layer.name not in gone)
        if folded and not measure.can_be_folded(net.get_submodule(layer.name)):
            raise PackedFileError(f"{foreign}: {layer.name!r} is folded there, and no batch norm here")


def _check_tables(foreign: str, net: nn.Module, profile: Profile, tables: Mapping[str, Tensor]) -> None:
    if tables.keys() != {layer.name for layer in profile if layer.kind == "buffer"}:
        raise ValueError("it holds tensors that belong to no layer")
    for name, value in tables.items():
        own = net.get_buffer(name)
        if (value.shape, value.dtype) != (own.shape, own.dtype):
            raise PackedFileError(
                f"{foreign}: buffer {name!r} is {value.dtype} of shape {tuple(value.shape)} there, and {own.dtype} of "
                f"shape {tuple(own.shape)} in this {type(net).__name__}"
            )
        # Infinity is usual in masks of attention, and where the least value of a training begins.
        if (_finite(own.cpu()) & ~_finite(value)).any():
            raise ValueError(f"buffer {name!r} holds values that are not finite")


def _finite(values: Tensor) -> Tensor:
    if values.is_floating_point():
        values = values.double()  # torch has no isfinite for some types of 8 bits
    return values.isfinite()


def check_receives(net: nn.Module) -> None:
    """Raise unless the parameters and buffers of a network have shapes and memory.

    Raises:
        PackedFileError: naming the first that has not, and the remedy.
    """
    for name, value in (*net.named_parameters(), *net.named_buffers()):
        layer = name.rpartition(".")[0]
        if is_lazy(value):
            raise PackedFileError(
                f"load: layer {layer!r} of this {type(net).__name__} is lazy and has no shape yet; run the network "
                f"once on a batch, and load then"
            )
        if value.is_meta:
            raise PackedFileError(
                f"load: {name!r} of this {type(net).__name__} is on the meta device and has no memory; make the "
                f"network on a real one"
            )


def largest_description(net: nn.Module) -> int:
    """Return how many bytes the description of a file for a network has at most."""
    names = [name for name, _ in (*net.named_modules(), *net.named_parameters(), *net.named_buffers())]
    return DESCRIPTION_BYTES + sum(ENTRY_BYTES + 8 * len(name) for name in names)


def resize_to(net: nn.Module, described: Description) -> None:
    """Give the parameters of a network that the file fits the shapes of the file."""
    resize.resize(net, dict(_shapes(net, described)), described.profile.conv_groups)


def _fits(net: nn.Module, present: LayerProfile, stored: LayerProfile, told: Mapping[str, Sequence[int]]) -> bool:
    if (present.kind, present.kernel) != (stored.kind.replace("folded", "norm"), stored.kernel):
        return False
    if stored.kind == "parameter":
        shape, own = _parameter_shape(net, stored, told), net.get_parameter(stored.name).shape
        if len(shape) != len(own) or any(map(gt, shape, own)) or shape.numel() != stored.parameters:
            return False
    if stored.kind in ("norm", "buffer") and (present.extras, present.buffers) != (stored.extras, stored.buffers):
        return False
    if stored.groups > present.groups or any(map(gt, _per_group(stored), _per_group(present))):
        return False
    return present.out_channels >= stored.out_channels and present.in_channels >= stored.in_channels


def _per_group(layer: LayerProfile) -> tuple[int, int]:
    return layer.in_channels // layer.groups, layer.out_channels // layer.groups


def _words(layer: LayerProfile) -> str:
    kernel = f" kernel {layer.kernel}" if layer.kernel else ""
    each = f", {layer.extras + layer.buffers} values for each" if layer.kind in ("norm", "parameter", "buffer") else ""
    return f"{layer.kind} {layer.in_channels}->{layer.out_channels}{kernel}{each}"


def _shapes(net: nn.Module, described: Description) -> Iterator[tuple[str, torch.Size]]:
    for layer in described.profile:
        if layer.kind in ("conv", "linear"):
            yield f"{layer.name}.weight", torch.Size(weight_shape(layer))
            yield f"{layer.name}.bias", torch.Size((layer.out_channels,))
        elif layer.kind == "conv_transpose":
            out = layer.out_channels // layer.groups
            yield f"{layer.name}.weight", torch.Size((layer.in_channels, out, *layer.kernel))
            yield f"{layer.name}.bias", torch.Size((layer.out_channels,))
        elif layer.kind == "matrix":
            yield layer.name, torch.Size(weight_shape(layer))
        elif layer.kind == "norm":
            for key in ("weight", "bias", "running_mean", "running_var"):
                yield f"{layer.name}.{key}", torch.Size([layer.out_channels])
        elif layer.kind == "parameter":
            yield layer.name, _parameter_shape(net, layer, described.shapes)


def _parameter_shape(net: nn.Module, layer: LayerProfile, told: Mapping[str, Sequence[int]]) -> torch.Size:
    """Return the shape in the file of a parameter: where none is told, its first and last dimensions may be smaller."""
    if layer.name in told:
        return torch.Size(told[layer.name])
    shape = list(net.get_parameter(layer.name).shape)
    if not shape or not layer.extras:
        return torch.Size(shape)
    last = max((dim for dim, size in enumerate(shape) if size > 1), default=0)
    if last:  # a position embedding of shape (1, tokens, channels)
        others = prod(shape[1:last])
        shape[last] = min(shape[last], layer.extras // others)
    shape[0] = layer.out_channels
    return torch.Size(shape)
