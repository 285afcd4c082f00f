"""``save``: a compressed network as a file that is really that small.

A file holds the codes of quantized weights, bit-packed, and of masked layers only the kept ones and their positions;
as fp32, or rounded to bfloat16 if the coder says so, the weights that are not quantized, scales, biases and what else
a layer needs; and as metadata the plan, the profile and the number formats. Batch norms are folded into the layer
before them: the factor goes into the scale, so the codes stay. A network of the same architecture, made by its own
code, gives the modules to fill; nothing in a file is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError
from lightning_compress.core.packed_size import float_counts, has_codes, is_sparse, mask_bytes, weight_shape
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.export import container, fitting, shared_quantizers
from lightning_compress.export.header import Description
from lightning_compress.export.positions import write_positions
from lightning_compress.export.reproduced import check_outputs
from lightning_compress.pruning.noise.noise import Noise
from lightning_compress.quantization.coders.coder import Coder
from lightning_compress.quantization.coders.fixed_width import FixedWidth
from lightning_compress.quantization.quantizers.activation import ActivationQuantizer
from lightning_compress.quantization.quantizers.weight_format import weight_format
from lightning_compress.surgery import measure, replacement, transforms
from lightning_compress.surgery.mask import mask_of, measured
from lightning_compress.surgery.matrices import weight_place
from lightning_compress.surgery.row_layout import weight_rows
from lightning_compress.surgery.split_numbers import numbers_of
from lightning_compress.surgery.structure import Structure, network, structure_of

FIXED_WIDTH = FixedWidth()


@torch.no_grad()
def save(module: nn.Module, path: str | Path, example_input: Any = None, coder: Coder = FIXED_WIDTH) -> Path:
    """Write the network of ``module`` as a packed file.

    Args:
        module: a LightningModule or a network; it is not changed.
        path: of the file, usually ``*.safetensors``.
        example_input: one input batch: the outputs of what is packed are compared with those of the network on it.
            Needed for a network that no callback was applied to.
        coder: of the quantized weights; ``RangeCoded()`` makes files smaller, by how much depends on the weights.
            Its ``numbers`` are the type of all else.

    Raises:
        CompressError: the profile is not known, learned noise is still on, an input quantizer has seen no batch yet, a
            parameter is of a type that a file cannot hold, or the outputs of what is packed differ.
        PackedFileError: the file cannot be written.
    """
    net = network(module)
    _check_noise(net)
    _check_precision(net)
    record = structure_of(net) or Structure(_measured(module, net, example_input))
    profile = measured(net, record.profile)  # a schedule may not have reached the plan's density yet
    codes, floats = [np.empty(0, np.uint8)], [torch.empty(0)]
    weights: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    norms = {layer.follows: layer.name for layer in profile if layer.follows}
    for layer in profile.folded():
        stored = _parts(net, layer, norms.get(layer.name))
        kept = stored.pop("mask").cpu() if is_sparse(layer) else None
        if kept is not None:
            codes.append(write_positions(_units(kept, layer), mask_bytes(layer)))
        if "codes" in stored:
            shape, mask = weight_shape(layer), None if kept is None else kept.numpy()
            codes.append(coder.write(stored["codes"].flatten().numpy(), layer.weight_bits, shape, mask))
            weights[layer.name] = weight_format(*weight_place(net, layer.name)).reader()
        if layer.act_scales:
            inputs[layer.name] = _input(net.get_submodule(layer.name), layer).spec()
        for part, count in float_counts(layer).items():
            value = stored.get(part, torch.empty(0)).flatten().float().cpu()
            assert value.numel() == count, (layer.name, part, value.numel(), count)
            _check_finite(layer, value)
            floats.append(value)
    tensors = {
        "codes": torch.from_numpy(np.concatenate(codes)),
        "floats": torch.cat(floats).to(coder.number_type if has_codes(profile) else torch.float32),
        **{p.name: net.get_buffer(p.name).detach().cpu().contiguous() for p in profile if p.kind == "buffer"},
    }
    shared = shared_quantizers.describe(net, profile.folded())
    described = Description(
        profile,
        record.applied,
        weights,
        inputs,
        coder.kind,
        replacement.describe(net),
        shared,
        numbers_of(net),
        fitting.shapes_of(net, profile),
    )
    if example_input is not None:
        check_outputs(net, example_input, Path(path), tensors, described)
    container.write(Path(path), tensors, described.to_dict())
    return Path(path)


def _measured(module: nn.Module, net: nn.Module, example: Any) -> Profile:
    if example is None and isinstance(module, LightningModule):
        example = module.example_input_array
    if example is None:
        raise CompressError(
            f"save: no callback was applied to this {type(net).__name__}, so its shapes are not known; pass "
            f"example_input=, one batch that it accepts"
        )
    return measure.measure(net, example)


def _check_noise(net: nn.Module) -> None:
    for name, layer in transforms.transformed(net).items():
        chains = transforms.weight_chains(layer).values()
        for transform in (*(t for chain in chains for t in chain), transforms.output_transform(layer)):
            if isinstance(transform, Noise) and not transform.ended:
                raise CompressError(
                    f"save: layer {name!r} has {type(transform).__name__} that has not ended, and a file holds none; "
                    f"let a training with its callback come to an end first"
                )


def _parts(net: nn.Module, layer: LayerProfile, norm: str | None) -> dict[str, Tensor]:
    """Return the tensors of one layer as they are stored, by the names of ``float_counts``, and ``codes``."""
    if layer.kind == "parameter":
        return {"extras": _real(layer, net.get_parameter(layer.name))}
    if layer.kind in ("folded", "buffer"):
        return {}
    module, key = weight_place(net, layer.name)
    if layer.kind == "norm":
        extras = [p for p in (module.weight, module.bias) if p is not None]
        buffers = [module.running_mean, module.running_var] if layer.buffers else []
        return {"extras": _cat(extras), "buffers": _cat(buffers)}
    if norm is None:
        factor, bias = None, module.bias if layer.extras else None
    else:
        factor, bias = transforms.fold_batch_norm(module, net.get_submodule(norm))
    stored = {} if bias is None else {"extras": bias}
    kept = mask_of(module) if is_sparse(layer) else ...
    if layer.weight_bits < 32:
        codes, scale, table = _quantized(layer, module, key)
        scale = scale if factor is None else (scale * _columns(factor, module)).flatten()
        scale = scale if layer.weight_scales else torch.empty(0)
        stored |= {"codes": codes[kept].cpu(), "weight_scale": scale, "codebook": table}
    else:
        weight = weight_rows(module, key)
        weight = weight if factor is None else weight * _columns(factor, module)
        stored["weight"] = weight[kept]
    if is_sparse(layer):
        stored["mask"] = kept
    if layer.act_scales:
        stored["act_scale"] = _input(module, layer).packed()
    return stored


def _quantized(layer: LayerProfile, module: nn.Module, key: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes, the scale of their levels, and the table of levels, empty where a reader needs none."""
    quantizer = weight_format(module, key)
    if not quantizer.settled:
        raise CompressError(
            f"save: layer {layer.name!r} has no codes yet, for its mask still moves; save after the training"
        )
    weight, table = transforms.weight_before(module, quantizer, key), quantizer.table
    _check_finite(layer, weight)
    _check_finite(layer, table)
    return (*quantizer.codes(weight), table)


def _real(layer: LayerProfile, parameter: Tensor) -> Tensor:
    """Return a parameter that is of floating point: files hold those as fp32."""
    if not parameter.is_floating_point():
        raise CompressError(
            f"save: parameter {layer.name!r} is of type {parameter.dtype}, and a packed file holds parameters as "
            f"fp32, which would change it; make it a buffer, which is stored as it is, or save with torch.save"
        )
    return parameter


def _check_precision(net: nn.Module) -> None:
    """Raise for single parameters of double precision; warn of a network of those alone: it is the trainer's."""
    types = {name: p.dtype for name, p in net.named_parameters() if p.is_floating_point()}
    double = [name for name, dtype in types.items() if dtype == torch.float64]
    if double and len(set(types.values())) > 1:
        raise CompressError(
            f"save: parameter {double[0]!r} is of type torch.float64 beside others that are not, and a packed file "
            f"holds parameters as fp32; convert the network with .float(), or save with torch.save"
        )
    if double:
        rank_zero_warn(
            f"save: the parameters of {type(net).__name__} are of type torch.float64, and a packed file holds them as "
            f"fp32, rounded to 7 digits; save with torch.save where more count"
        )


def _units(mask: Tensor, layer: LayerProfile) -> np.ndarray:
    """Return the kept units; the first weight of each stands for all."""
    return mask.reshape(-1, layer.mask_unit)[:, 0].cpu().numpy()


def _check_finite(layer: LayerProfile, values: Tensor) -> None:
    if not values.isfinite().all():
        raise CompressError(
            f"save: layer {layer.name!r} holds NaN or infinity: its training diverged; save an earlier checkpoint"
        )


def _input(module: nn.Module, layer: LayerProfile) -> ActivationQuantizer:
    quantizer = cast(ActivationQuantizer, transforms.input_transform(module))
    if not quantizer.has_grid:
        raise CompressError(
            f"save: the input quantizer of layer {layer.name!r} has seen no batch, so it has no scale; train or "
            f"validate the network first"
        )
    return quantizer


def _columns(values: Tensor, module: nn.Module) -> Tensor:
    """Return values per output channel, shaped to scale the weight."""
    return values.view(-1, *[1] * (transforms.raw_weight(module).dim() - 1))


def _cat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors]) if tensors else torch.empty(0)
