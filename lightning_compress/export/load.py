"""``load`` and ``inspect``: a packed file back as a network, or only what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_compress.core.errors import PackedFileError
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import WITH_WEIGHT, LayerProfile, Profile
from lightning_compress.export import container, fitting, shared_quantizers
from lightning_compress.export.header import Description
from lightning_compress.export.stored_layers import StoredLayers, input_quantizer, set_scale
from lightning_compress.surgery import replacement, transforms
from lightning_compress.surgery.lightning_module import is_lightning_module
from lightning_compress.surgery.mask import Mask
from lightning_compress.surgery.matrices import weight_place
from lightning_compress.surgery.row_layout import attach_to_rows, swapped
from lightning_compress.surgery.split_numbers import set_numbers
from lightning_compress.surgery.structure import Structure, network, structure_of, write_structure
from lightning_compress.surgery.tied_weights import tie, untie


@dataclass(frozen=True)
class PackedInfo:
    """Plan, profile and size of a packed file.

    Attributes:
        plan: all that was applied.
        profile: of the network, batch norms not yet folded.
        bytes: size of the file.
    """

    plan: Plan
    profile: Profile
    bytes: int


NetT = TypeVar("NetT", bound=nn.Module)


@torch.no_grad()
def load(path: str | Path, net: NetT, dequantize: bool = False) -> NetT:
    """Give ``net`` the structure and weights of a packed file, in place, and return it.

    Args:
        path: of a file that :func:`save` wrote.
        net: the same architecture, dense, freshly made: a LightningModule or a network.
        dequantize: leave weights as plain fp32 parameters and inputs unquantized; otherwise inputs are rounded as in
            training, and the network can be saved again.

    Raises:
        PackedFileError: the file is missing, foreign, truncated, corrupted, or made for another network.
    """
    path = Path(path)
    if is_lightning_module(net):
        net.configure_model()
    target = network(net)
    if structure_of(target) is not None:
        raise PackedFileError(f"load: callbacks were already applied to this {type(target).__name__}; pass a fresh one")
    fitting.check_receives(target)
    with container.refusing(path):
        tensors, contents = container.read(path, fitting.largest_description(target))
        receive(path, target, tensors, Description.from_dict(contents), dequantize)
    return net.eval()


@torch.no_grad()
def receive(
    path: Path, net: nn.Module, tensors: Mapping[str, Tensor], described: Description, dequantize: bool = False
) -> None:
    """Give a network the structure and weights of what a packed file holds.

    Args:
        path: of the file, for messages.
        net: fresh, of the same architecture.
        tensors: that the file holds.
        described: what it says of them.
        dequantize: see :func:`load`.

    Raises:
        Exception: of any kind, where the file is damaged or hostile; :func:`.container.refusing` turns it into one.
    """
    tables = {key: value for key, value in tensors.items() if key not in ("codes", "floats")}
    fitting.replace(path, net, described.replaced)
    fitting.check(path, net, described, tables)
    inputs = {
        name: input_quantizer(spec, name, described.profile[name].in_channels)
        for name, spec in described.inputs.items()
    }
    layers, kept = StoredLayers(tensors["codes"], tensors["floats"], described.coder), described.profile.folded()
    fitting.resize_to(net, described)
    set_numbers(net, described.numbers)
    for name, value in tables.items():
        net.get_buffer(name).copy_(value)
    tied = untie(net, {f"{layer.name}.weight" for layer in kept.quantizable} | {layer.name for layer in kept})
    for layer in kept:
        weight, stored = layers.next(layer, described.weights.get(layer.name))
        if layer.kind not in ("folded", "buffer"):
            _fill(net, layer, weight, stored)
        if not dequantize:
            _attach(net, layer, stored, inputs.get(layer.name))
    layers.check_end()
    replacement.replace_modules(net, {layer.name: nn.Identity() for layer in kept if layer.kind == "folded"})
    if not dequantize:
        shared_quantizers.attach(net, described.quantizers)
    tie(tied)
    write_structure(net, Structure(_plain(kept) if dequantize else kept, dict(described.applied)))


def inspect(path: str | Path) -> PackedInfo:
    """Read plan, profile and size of a packed file, without a network.

    Raises:
        PackedFileError: as :func:`load`.
    """
    with container.refusing(path):
        _, contents = container.read(Path(path))
        described = Description.from_dict(contents)
        plan = Structure(described.profile, dict(described.applied)).plan
    return PackedInfo(plan, described.profile, Path(path).stat().st_size)


def _fill(net: nn.Module, layer: LayerProfile, weight: Tensor | None, stored: Mapping[str, Any]) -> None:
    """Put the stored values into the parameters and buffers of one layer."""
    if layer.kind == "parameter":
        parameter = net.get_parameter(layer.name)
        parameter.copy_(stored["extras"].view(parameter.shape))
        return
    if layer.kind == "norm":
        module, width = net.get_submodule(layer.name), layer.out_channels
        for i, target in enumerate(p for p in (module.weight, module.bias) if p is not None):
            target.copy_(stored["extras"][i * width : (i + 1) * width])
        if layer.buffers:
            if stored["buffers"][width:].lt(0).any():
                raise ValueError(f"layer {layer.name!r} has a negative variance")
            module.running_mean.copy_(stored["buffers"][: layer.out_channels])
            module.running_var.copy_(stored["buffers"][layer.out_channels :])
        return
    place, key = weight_place(net, layer.name)
    if weight is not None:
        place.get_parameter(key).copy_(swapped(weight, layer.groups) if layer.kind == "conv_transpose" else weight)
    if layer.kind == "matrix":
        return
    module = net.get_submodule(layer.name)
    module.register_parameter("bias", nn.Parameter(stored["extras"].to(module.weight)) if layer.extras else None)


def _attach(net: nn.Module, layer: LayerProfile, stored: Mapping[str, Any], quantizer: Any) -> None:
    if layer.kind not in WITH_WEIGHT:
        return
    module, key = weight_place(net, layer.name)
    if "format" in stored:
        attach_to_rows(module, stored["format"].to(getattr(module, key).device), key)
    if "mask" in stored:
        mask = Mask(module.weight.shape).to(module.weight.device)
        mask.mask.copy_(stored["mask"])
        mask.settled.fill_(True)
        transforms.attach_weight(module, mask)
    if layer.act_scales:
        set_scale(quantizer, stored["act_scale"])
        transforms.attach_input(module, quantizer.to(transforms.raw_weight(module).device))


def _plain(profile: Profile) -> Profile:
    """Return the profile without quantization and masks."""
    blank: dict[str, Any] = {"weight_bits": 32, "act_bits": 32, "weight_scales": 0, "act_scales": 0}
    blank |= {"density": 1.0, "mask_unit": 0, "codebook": 0}
    return profile.update([replace(layer, **blank) for layer in profile.quantizable])
