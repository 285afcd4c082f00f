"""``load`` and ``inspect``: a packed file back as a network, or only what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError, PackedFileError
from lightning_compress.core.kinds import class_of
from lightning_compress.core.packed_size import float_counts, is_sparse, mask_bytes, mask_units, stored_weights
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.export import container, fitting, shared_quantizers
from lightning_compress.export.coders import Coder
from lightning_compress.export.header import Description
from lightning_compress.export.positions import read_positions
from lightning_compress.quantization.quantizers.weight_format import StoredWeight, WeightFormat
from lightning_compress.surgery import replacement, transforms
from lightning_compress.surgery.mask import Mask
from lightning_compress.surgery.structure import Structure, network, structure_of, write_structure
from lightning_compress.surgery.tied_weights import tie, untie

T = TypeVar("T", Coder, WeightFormat)


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
    tensors, contents = container.read(Path(path))
    described = Description.from_dict(contents)
    if isinstance(net, LightningModule):
        net.configure_model()
    target, tables = network(net), {k: v for k, v in tensors.items() if k not in ("codes", "floats")}
    if structure_of(target) is not None:
        raise PackedFileError(f"load: callbacks were already applied to this {type(target).__name__}; pass a fresh one")
    fitting.replace(path, target, described.replaced)
    fitting.check(path, target, described.profile, tables)
    inputs = {name: transforms.Transform.build(spec) for name, spec in described.inputs.items()}
    fitting.resize_to(target, described.profile)
    for name, value in tables.items():
        target.get_buffer(name).copy_(value)
    coder = _known(described.coder, Coder)()
    reader, kept = _Reader(tensors["codes"].numpy(), tensors["floats"], coder), described.profile.folded()
    tied = untie(target, {f"{layer.name}.weight" for layer in kept.weighted} | {layer.name for layer in kept})
    for layer in kept:
        weight, stored = reader.next(layer, described.weights.get(layer.name))
        _fill(target, layer, weight, stored)
        if not dequantize:
            _attach(target, layer, stored, inputs.get(layer.name))
    if not dequantize:
        shared_quantizers.attach(target, described.quantizers)
    tie(tied)
    write_structure(target, Structure(_plain(kept) if dequantize else kept, dict(described.applied)))
    return net.eval()


def inspect(path: str | Path) -> PackedInfo:
    """Read plan, profile and size of a packed file, without a network.

    Raises:
        PackedFileError: as :func:`load`.
    """
    _, contents = container.read(Path(path))
    described = Description.from_dict(contents)
    plan = Structure(described.profile, dict(described.applied)).plan
    return PackedInfo(plan, described.profile, Path(path).stat().st_size)


class _Reader:
    """Takes the layers off the two streams in order."""

    def __init__(self, codes: np.ndarray, floats: Tensor, coder: Coder) -> None:
        self.codes, self.floats, self.coder = codes, floats, coder
        self.byte = self.number = 0

    def next(self, layer: LayerProfile, spec: Mapping[str, Any] | None) -> tuple[Tensor | None, dict[str, Any]]:
        """Return the weight (fp32, shaped) if the layer has one, and its stored parts."""
        stored: dict[str, Any] = {}
        for part, count in float_counts(layer).items():
            stored[part] = self.floats[self.number : self.number + count].clone()
            self.number += count
        if layer.kind not in ("conv", "linear"):
            return None, stored
        shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel)
        mask = torch.ones(shape, dtype=torch.bool)
        if is_sparse(layer):
            kept = read_positions(self._take(mask_bytes(layer)), *mask_units(layer))
            mask = torch.from_numpy(kept)[:, None].expand(-1, layer.mask_unit).reshape(shape)
            stored["mask"] = mask
        if layer.weight_bits == 32:
            return torch.zeros(shape).masked_scatter_(mask, stored["weight"]), stored
        codes, size = self.coder.read(self.codes[self.byte :], layer.weight_bits, stored_weights(layer))
        self.byte += size
        codes = torch.zeros(shape, dtype=torch.uint8).masked_scatter_(mask, torch.from_numpy(codes))
        stored["format"] = _format(layer, stored, codes, mask, spec)
        return stored["format"].decode(codes, stored["format"].scale).detach() * mask, stored

    def _take(self, size: int) -> np.ndarray:
        self.byte += size
        return self.codes[self.byte - size : self.byte]


def _format(
    layer: LayerProfile, stored: Mapping[str, Any], codes: Tensor, kept: Tensor, spec: Mapping[str, Any]
) -> WeightFormat:
    """Return the transform that decodes the codes of a layer."""
    scale = stored["weight_scale"]
    shape = (len(scale), *[1] * (codes.dim() - 1)) if scale.numel() > 1 else ()
    scale = scale.view(shape) if scale.numel() else torch.ones(())
    arguments = {key: value for key, value in spec.items() if key != "kind"}
    cls = _known(spec["kind"], WeightFormat)
    return cls.from_stored(StoredWeight(layer.weight_bits, codes, kept, scale, stored["codebook"]), **arguments)


def _known(kind: str, base: type[T]) -> type[T]:
    """Return the class that a file names.

    Raises:
        PackedFileError: it is not known here.
    """
    try:
        return class_of(kind, base)
    except CompressError as error:
        raise PackedFileError(f"load: {error}, or update lightning-compress if it is of a newer version") from error


def _fill(net: nn.Module, layer: LayerProfile, weight: Tensor | None, stored: Mapping[str, Any]) -> None:
    """Put the stored values into the parameters and buffers of one layer."""
    if layer.kind == "folded":
        replacement.replace_module(net, layer.name, nn.Identity())
        return
    if layer.kind == "table":
        return
    if layer.kind == "raw":
        parameter = net.get_parameter(layer.name)
        parameter.copy_(stored["extras"].view(parameter.shape))
        return
    module = net.get_submodule(layer.name)
    if layer.kind == "norm":
        width = layer.out_channels
        for i, target in enumerate(p for p in (module.weight, module.bias) if p is not None):
            target.copy_(stored["extras"][i * width : (i + 1) * width])
        if layer.buffers:
            module.running_mean.copy_(stored["buffers"][: layer.out_channels])
            module.running_var.copy_(stored["buffers"][layer.out_channels :])
        return
    module.weight.copy_(weight)
    module.bias = nn.Parameter(stored["extras"].to(module.weight)) if layer.extras else None


def _attach(net: nn.Module, layer: LayerProfile, stored: Mapping[str, Any], quantizer: Any) -> None:
    module = net.get_submodule(layer.name) if layer.kind in ("conv", "linear") else None
    if "format" in stored:
        transforms.attach_weight(module, stored["format"].to(module.weight.device))
    if "mask" in stored:
        mask = Mask(module.weight.shape).to(module.weight.device)
        mask.mask.copy_(stored["mask"])
        mask.settled.fill_(True)
        transforms.attach_weight(module, mask)
    if layer.act_scales:
        quantizer.unpack(stored["act_scale"])
        transforms.attach_input(module, quantizer.to(transforms.raw_weight(module).device))


def _plain(profile: Profile) -> Profile:
    """Return the profile without quantization and masks."""
    blank = {"weight_bits": 32, "act_bits": 32, "weight_scales": 0, "act_scales": 0}
    blank |= {"density": 1.0, "mask_unit": 0, "codebook": 0}
    for layer in profile.weighted:
        profile = profile.change(layer.name, **blank)
    return profile
