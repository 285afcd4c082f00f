"""Whether a packed file fits a network, and giving the network the shapes of the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_compress import surgery, trace
from lightning_compress.errors import PackedFileError, did_you_mean
from lightning_compress.profile import LayerProfile, Profile

NORM_STATE = ("running_mean", "running_var", "num_batches_tracked")  # in the profile, or of no use after training


def check(path: str | Path, net: nn.Module, profile: Profile, buffers: Mapping[str, Tensor]) -> None:
    """Raise unless file and network have the same layers and buffers, each at least as wide in the network.

    Raises:
        PackedFileError: naming the first layer or buffer that differs.
    """
    known, foreign = {p.name: p for p in trace.all_layers(net)}, f"{str(path)!r} was made for another network"
    _same_names(foreign, net, "layer", known, profile.layers)
    for layer in profile:
        if not _fits(known[layer.name], layer):
            raise PackedFileError(
                f"{foreign}: layer {layer.name!r} is {_words(layer)} there, and {_words(known[layer.name])} in this "
                f"{type(net).__name__}"
            )
    own = other_buffers(net, profile)
    _same_names(foreign, net, "buffer", own, buffers)
    for name, value in buffers.items():
        if value.shape != own[name].shape or value.dtype != own[name].dtype:
            raise PackedFileError(
                f"{foreign}: buffer {name!r} is {value.dtype} of shape {tuple(value.shape)} there, and "
                f"{own[name].dtype} of shape {tuple(own[name].shape)} in this {type(net).__name__}"
            )


def resize(net: nn.Module, profile: Profile) -> None:
    """Give the parameters of a network that the file fits the shapes of the file."""
    surgery.resize(net, dict(_shapes(net, profile)))


def other_buffers(net: nn.Module, profile: Profile) -> dict[str, Tensor]:
    """Buffers that a checkpoint would hold and no layer of the profile covers, by their names."""
    own = {id(m) for layer in surgery.transformed(net).values() for t in transforms(layer) for m in t.modules()}
    found = {}
    for name, module in net.named_modules():
        norm = name in profile.layers and profile[name].kind in ("norm", "folded")
        for key, buffer in module.named_buffers(recurse=False):
            covered = id(module) in own or key in module._non_persistent_buffers_set or (norm and key in NORM_STATE)
            if not covered:
                found[f"{name}.{key}" if name else key] = buffer
    return found


def transforms(layer: nn.Module) -> list[surgery.Transform]:
    """All transforms of a layer, of its weight and of its input."""
    at_input = surgery.input_transform(layer)
    return [*surgery.weight_transforms(layer), *([] if at_input is None else [at_input])]


def _same_names(foreign: str, net: nn.Module, what: str, own: Mapping[str, object], stored: Mapping[str, object]):
    for name in stored:
        if name not in own:
            raise PackedFileError(
                f"{foreign}: it has a {what} {name!r}, {type(net).__name__} has not{did_you_mean(name, own)}"
            )
    for name in own:
        if name not in stored:
            raise PackedFileError(
                f"{foreign}: it has no {what} {name!r}, {type(net).__name__} has{did_you_mean(name, stored)}"
            )


def _fits(present: LayerProfile, stored: LayerProfile) -> bool:
    if (present.kind, present.kernel) != (stored.kind.replace("folded", "norm"), stored.kernel):
        return False
    if stored.kind in ("norm", "raw") and (present.extras, present.buffers) != (stored.extras, stored.buffers):
        return False
    return present.out_channels >= stored.out_channels and present.in_channels >= stored.in_channels


def _words(layer: LayerProfile) -> str:
    each = {"raw": f", {layer.extras} values for each", "norm": f", {layer.extras + layer.buffers} values for each"}
    kernel = f" kernel {layer.kernel}" if layer.kernel else ""
    return f"{layer.kind} {layer.in_channels}->{layer.out_channels}{kernel}{each.get(layer.kind, '')}"


def _shapes(net: nn.Module, profile: Profile) -> Iterator[tuple[str, torch.Size]]:
    for layer in profile:
        if layer.kind in ("conv", "linear"):
            shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel)
            yield f"{layer.name}.weight", torch.Size(shape)
            yield f"{layer.name}.bias", torch.Size(shape[:1])
        elif layer.kind == "norm":
            for key in ("weight", "bias", "running_mean", "running_var"):
                yield f"{layer.name}.{key}", torch.Size([layer.out_channels])
        elif layer.kind == "raw":
            shape = net.get_parameter(layer.name).shape
            yield layer.name, torch.Size([layer.out_channels, *shape[1:]] if shape else [])
