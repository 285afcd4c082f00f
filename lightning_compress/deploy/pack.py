"""``save`` and ``load``: a compressed network as a file that is really that small.

A file holds the codes of quantised weights, bit-packed, and of masked layers only the kept ones and their positions;
as fp32 the weights that are not quantised, scales, biases and what else a layer needs; and as metadata the plan, the
profile and the grids. Batch norms are folded into the layer before them: the factor goes into the scale, so the codes
stay. A network of the same architecture, made by its own code, gives the modules to fill; nothing in a file is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, nn

from lightning_compress import replacement, surgery, trace
from lightning_compress.deploy import container, fitting
from lightning_compress.deploy.coders import Coder, FixedWidth, by_name
from lightning_compress.deploy.description import Description
from lightning_compress.deploy.positions import read_positions, write_positions
from lightning_compress.errors import CompressError, PackedFileError
from lightning_compress.layout import float_counts, is_sparse, mask_bytes, mask_units, stored_weights
from lightning_compress.mask import Mask, mask_of, measured
from lightning_compress.plan import Plan
from lightning_compress.profile import LayerProfile, Profile
from lightning_compress.quantizers.activation import ActivationQuantizer
from lightning_compress.quantizers.codebook import Codebook
from lightning_compress.quantizers.fixed_grid import FixedGrid
from lightning_compress.quantizers.weight import WeightQuantizer
from lightning_compress.record import Record, network, record_of, write_record

FIXED_WIDTH = FixedWidth()


@dataclass(frozen=True)
class PackedInfo:
    """What a file says of itself.

    Attributes:
        plan: all that was applied.
        profile: of the network, batch norms not yet folded.
        bytes: size of the file.
    """

    plan: Plan
    profile: Profile
    bytes: int


@torch.no_grad()
def save(module: nn.Module, path: str | Path, example_input: Any = None, coder: Coder = FIXED_WIDTH) -> Path:
    """Write the network of ``module`` as a packed file.

    Args:
        module: a LightningModule or a network; it is not changed.
        path: of the file, usually ``*.safetensors``.
        example_input: one input batch; needed only for a network that no callback was applied to.
        coder: of the quantised weights; ``RangeCoded()`` makes files smaller, by how much depends on the weights.

    Raises:
        CompressError: the profile is not known, or an input quantiser has seen no batch yet.
        PackedFileError: the file cannot be written.
    """
    net = network(module)
    record = record_of(net) or Record(_measured(module, net, example_input))
    profile = measured(net, record.profile)  # a schedule may not have reached the plan's density yet
    codes, floats = [np.empty(0, np.uint8)], [torch.empty(0)]
    grids: dict[str, float] = {}
    inputs: dict[str, Any] = {}
    norms = {layer.follows: layer.name for layer in profile if layer.follows}
    for layer in profile.folded():
        stored = _parts(net, layer, norms.get(layer.name))
        if is_sparse(layer):
            codes.append(write_positions(_units(stored.pop("mask"), layer), mask_bytes(layer)))
        if "codes" in stored:
            codes.append(coder.write(stored["codes"].flatten().numpy(), layer.weight_bits))
            if "zero" in stored:
                grids[layer.name] = float(stored["zero"])
        if layer.act_scales:
            inputs[layer.name] = surgery.input_transform(net.get_submodule(layer.name)).spec()
        for part, count in float_counts(layer).items():
            value = stored.get(part, torch.empty(0)).flatten().float().cpu()
            assert value.numel() == count, (layer.name, part, value.numel(), count)
            _check_finite(layer, value)
            floats.append(value)
    tensors = {
        "codes": torch.from_numpy(np.concatenate(codes)),
        "floats": torch.cat(floats),
        **{p.name: net.get_buffer(p.name).detach().cpu().contiguous() for p in profile if p.kind == "table"},
    }
    described = Description(profile, record.applied, grids, inputs, type(coder).__name__, replacement.describe(net))
    container.write(Path(path), tensors, described.to_dict())
    return Path(path)


@torch.no_grad()
def load(path: str | Path, net: nn.Module, dequantize: bool = False) -> nn.Module:
    """Give ``net`` the structure and weights of a packed file, in place, and return it.

    Args:
        path: of a file that :func:`save` wrote.
        net: the same architecture, dense, freshly made: a LightningModule or a network.
        dequantize: leave weights as plain fp32 parameters and inputs unquantised; otherwise inputs are rounded as in
            training, and the network can be saved again.

    Raises:
        PackedFileError: the file is missing, foreign, truncated, corrupted, or made for another network.
    """
    tensors, contents = container.read(Path(path))
    described = Description.from_dict(contents)
    target, tables = network(net), {k: v for k, v in tensors.items() if k not in ("codes", "floats")}
    if record_of(target) is not None:
        raise PackedFileError(f"load: callbacks were already applied to this {type(target).__name__}; pass a fresh one")
    fitting.replace(path, target, described.replaced)
    fitting.check(path, target, described.profile, tables)
    inputs = {name: surgery.Transform.build(spec) for name, spec in described.inputs.items()}
    fitting.resize(target, described.profile)
    for name, value in tables.items():
        target.get_buffer(name).copy_(value)
    coder = by_name(described.coder)
    reader, kept = _Reader(tensors["codes"].numpy(), tensors["floats"], coder), described.profile.folded()
    for layer in kept:
        weight, stored = reader.next(layer, described.grids.get(layer.name))
        _fill(target, layer, weight, stored)
        if not dequantize:
            _attach(target, layer, stored, inputs.get(layer.name))
    write_record(target, Record(_plain(kept) if dequantize else kept, dict(described.applied)))
    return net.eval()


def inspect(path: str | Path) -> PackedInfo:
    """Plan, profile and size of a packed file, without a network.

    Raises:
        PackedFileError: as :func:`load`.
    """
    _, contents = container.read(Path(path))
    described = Description.from_dict(contents)
    plan = Record(described.profile, dict(described.applied)).plan
    return PackedInfo(plan, described.profile, Path(path).stat().st_size)


def _measured(module: nn.Module, net: nn.Module, example: Any) -> Profile:
    if example is None and isinstance(module, LightningModule):
        example = module.example_input_array
    if example is None:
        raise CompressError(
            f"save: no callback was applied to this {type(net).__name__}, so its shapes are not known; pass "
            f"example_input=, one batch that it accepts"
        )
    return trace.measure(net, example)


def _parts(net: nn.Module, layer: LayerProfile, norm: str | None) -> dict[str, Tensor]:
    """The tensors of one layer as they are stored, by the names of ``float_counts``, and ``codes`` with ``zero``."""
    if layer.kind == "raw":
        return {"extras": net.get_parameter(layer.name)}
    if layer.kind in ("folded", "table"):
        return {}
    module = net.get_submodule(layer.name)
    if layer.kind == "norm":
        extras = [p for p in (module.weight, module.bias) if p is not None]
        buffers = [module.running_mean, module.running_var] if layer.buffers else []
        return {"extras": _cat(extras), "buffers": _cat(buffers)}
    factor, bias = (None, module.bias) if norm is None else surgery.fold_batch_norm(module, net.get_submodule(norm))
    stored = {} if bias is None else {"extras": bias}
    quantizers = [t for t in surgery.weight_transforms(module) if isinstance(t, (WeightQuantizer, Codebook))]
    kept = mask_of(module) if is_sparse(layer) else ...
    if quantizers and layer.weight_bits < 32:
        codes, scale, own = _quantised(layer, module, quantizers[0])
        scale = scale if factor is None else (scale * _columns(factor, module)).flatten()
        stored |= {"codes": codes[kept].cpu(), "weight_scale": scale if layer.weight_scales else torch.empty(0), **own}
    else:
        weight = module.weight if factor is None else module.weight * _columns(factor, module)
        stored["weight"] = weight[kept]
    if is_sparse(layer):
        stored["mask"] = kept
    if layer.act_scales:
        stored["act_scale"] = _input(module, layer).packed()
    return stored


def _quantised(
    layer: LayerProfile, module: nn.Module, quantizer: WeightQuantizer | Codebook
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Codes, the scale of their values, and what else a reader needs: the level of code 0, or the codebook."""
    if isinstance(quantizer, Codebook):
        _check_finite(layer, quantizer.used)
        return quantizer.codes, quantizer.scale, {"codebook": quantizer.used}
    weight = surgery.weight_before(module, quantizer)
    _check_finite(layer, weight)
    return (*quantizer.codes(weight), {"zero": quantizer.zero})


def _units(mask: Tensor, layer: LayerProfile) -> np.ndarray:
    """Which units are kept: of each the first weight stands for all."""
    return mask.reshape(-1, layer.mask_unit)[:, 0].cpu().numpy()


def _check_finite(layer: LayerProfile, values: Tensor) -> None:
    if not values.isfinite().all():
        raise CompressError(
            f"save: layer {layer.name!r} holds NaN or infinity: its training diverged; save an earlier checkpoint"
        )


def _input(module: nn.Module, layer: LayerProfile) -> ActivationQuantizer:
    quantizer = surgery.input_transform(module)
    if not quantizer.calibrated:
        raise CompressError(
            f"save: the input quantiser of layer {layer.name!r} has seen no batch, so it has no scale; train or "
            f"validate the network first"
        )
    return quantizer


def _columns(values: Tensor, module: nn.Module) -> Tensor:
    """Values per output channel, shaped to scale the weight."""
    return values.view(-1, *[1] * (surgery.raw_weight(module).dim() - 1))


def _cat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors]) if tensors else torch.empty(0)


class _Reader:
    """Takes the layers off the two streams in order."""

    def __init__(self, codes: np.ndarray, floats: Tensor, coder: Coder) -> None:
        self.codes, self.floats, self.coder = codes, floats, coder
        self.byte = self.number = 0

    def next(self, layer: LayerProfile, zero: float | None) -> tuple[Tensor | None, dict[str, Any]]:
        """The weight (fp32, shaped) if the layer has one, and its stored parts."""
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
        stored["grid"] = grid = _grid(layer, stored, codes, zero)
        weight = grid(torch.empty(0)) if layer.codebook else grid.decode(codes, grid.scale)
        return weight.detach() * mask, stored

    def _take(self, size: int) -> np.ndarray:
        self.byte += size
        return self.codes[self.byte - size : self.byte]


def _grid(layer: LayerProfile, stored: Mapping[str, Any], codes: Tensor, zero: float | None) -> FixedGrid | Codebook:
    """The transform that decodes the codes of a layer."""
    scale = stored["weight_scale"]
    shape = (len(scale), *[1] * (codes.dim() - 1)) if scale.numel() > 1 else ()
    grid = FixedGrid(layer.weight_bits, shape, zero) if zero is not None else None
    if grid is None:
        grid = Codebook(layer.weight_bits, shape, codes.shape)
        grid.values.copy_(stored["codebook"])
        grid.codes.copy_(codes)
    if scale.numel():
        grid.scale.copy_(scale.view(grid.scale.shape))
    return grid


def _fill(net: nn.Module, layer: LayerProfile, weight: Tensor | None, stored: Mapping[str, Any]) -> None:
    """Put the stored values into the parameters and buffers of one layer."""
    if layer.kind == "folded":
        surgery.replace_module(net, layer.name, nn.Identity())
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
    if layer.weight_bits < 32:  # of its own, where it is tied: another layer may hold it with other bits
        module.weight = nn.Parameter(module.weight.new_empty(weight.shape), module.weight.requires_grad)
    module.weight.copy_(weight)
    module.bias = nn.Parameter(stored["extras"].to(module.weight)) if layer.extras else None


def _attach(net: nn.Module, layer: LayerProfile, stored: Mapping[str, Any], quantizer: Any) -> None:
    module = net.get_submodule(layer.name) if layer.kind in ("conv", "linear") else None
    if "grid" in stored:
        surgery.attach_weight(module, stored["grid"].to(module.weight.device))
    if "mask" in stored:
        mask = Mask(module.weight.shape).to(module.weight.device)
        mask.mask.copy_(stored["mask"])
        surgery.attach_weight(module, mask)
    if layer.act_scales:
        quantizer.unpack(stored["act_scale"])
        surgery.attach_input(module, quantizer.to(surgery.raw_weight(module).device))


def _plain(profile: Profile) -> Profile:
    """The profile without quantisation and masks."""
    blank = {"weight_bits": 32, "act_bits": 32, "weight_scales": 0, "act_scales": 0}
    blank |= {"density": 1.0, "mask_unit": 0, "codebook": 0}
    for layer in profile.weighted:
        profile = profile.change(layer.name, **blank)
    return profile
