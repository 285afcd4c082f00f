"""Read the layers of a packed file off its two streams, one after the other, to the last byte of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lightning_compress.core.errors import CompressError, PackedFileError
from lightning_compress.core.kinds import class_of
from lightning_compress.core.packed_size import float_counts, is_sparse, mask_bytes, mask_units, weight_shape
from lightning_compress.core.profile import WITH_WEIGHT, LayerProfile
from lightning_compress.export import untrusted
from lightning_compress.export.positions import read_positions
from lightning_compress.quantization.coders.coder import NUMBERS, Coder
from lightning_compress.quantization.quantizers.activation import ActivationQuantizer
from lightning_compress.quantization.quantizers.weight_format import StoredWeight, WeightFormat

NUMBER_TYPES = [getattr(torch, name) for name in NUMBERS]
T = TypeVar("T", Coder, WeightFormat, ActivationQuantizer)


class StoredLayers:
    """Takes the layers off the two streams in order.

    Args:
        codes: uint8, shape ``(bytes,)``.
        floats: fp32 or bfloat16, shape ``(numbers,)``.
        coder: kind of the coder of the codes.

    Raises:
        ValueError: a stream is of another type, or holds what is not finite.
        PackedFileError: the coder is not known here.
    """

    def __init__(self, codes: Tensor, floats: Tensor, coder: str) -> None:
        whole = (codes.dtype, codes.dim(), floats.dim()) == (torch.uint8, 1, 1)
        if not whole or floats.dtype not in NUMBER_TYPES:
            raise ValueError("its streams are of other types")
        if not floats.isfinite().all():
            raise ValueError("it holds values that are not finite")
        self.codes, self.floats, self.coder = codes.numpy(), floats.float(), known(coder, Coder)()
        self.byte = self.number = 0

    def next(self, layer: LayerProfile, spec: Mapping[str, Any] | None) -> tuple[Tensor | None, dict[str, Any]]:
        """Return the weight (fp32, output channels first) if the layer has one, and its stored parts.

        Args:
            layer: that comes next.
            spec: of the transform that decodes its codes, if it has codes.

        Raises:
            ValueError: a stream ends before the layer does, or holds what cannot be.
        """
        stored: dict[str, Any] = {part: self._floats(count) for part, count in float_counts(layer).items()}
        if layer.kind not in WITH_WEIGHT:
            return None, stored
        shape = weight_shape(layer)
        mask = None
        if is_sparse(layer):
            kept = read_positions(self._bytes(mask_bytes(layer)), *mask_units(layer))
            mask = stored["mask"] = torch.from_numpy(kept)[:, None].expand(-1, layer.mask_unit).reshape(shape)
        if layer.weight_bits == 32:
            weight = stored["weight"].view(shape) if mask is None else _spread(mask, stored["weight"])
            return weight, stored
        found, size = self.coder.read(
            self.codes[self.byte :], layer.weight_bits, shape, None if mask is None else mask.numpy()
        )
        self._bytes(size)
        codes = torch.from_numpy(found)
        codes = codes.view(shape) if mask is None else _spread(mask, codes)
        stored["format"] = form = _format(layer, stored, codes, mask, spec)
        weight = form.decode(codes, form.scale).detach()
        return weight if mask is None else weight.mul_(mask), stored

    def check_end(self) -> None:
        """Raise unless nothing is left.

        Raises:
            ValueError: something is.
        """
        left = len(self.codes) - self.byte, len(self.floats) - self.number
        if any(left):
            raise ValueError(f"{left[0]} bytes of codes and {left[1]} numbers belong to no layer")

    def _bytes(self, size: int) -> np.ndarray:
        if self.byte + size > len(self.codes):
            raise ValueError("its codes end too early")
        self.byte += size
        return self.codes[self.byte - size : self.byte]

    def _floats(self, count: int) -> Tensor:
        if self.number + count > len(self.floats):
            raise ValueError("its numbers end too early")
        self.number += count
        return self.floats[self.number - count : self.number].clone()


def known(kind: str, base: type[T]) -> type[T]:
    """Return the class that a file names.

    Raises:
        PackedFileError: it is not known here.
    """
    try:
        return class_of(kind, base)
    except CompressError as error:
        raise PackedFileError(f"load: {error}, or update lightning-compress if it is of a newer version") from error


def input_quantizer(spec: Mapping[str, Any], name: str, largest: int) -> ActivationQuantizer:
    """Return the quantizer of a layer's input, its scale not yet set.

    Args:
        spec: kind and arguments.
        name: of the layer.
        largest: how many values its scale may have.

    Raises:
        ValueError: its arguments cannot be.
        PackedFileError: it is not known here.
    """
    arguments = {key: value for key, value in spec.items() if key != "kind"}
    untrusted.check_arguments(f"input of layer {name!r}", arguments, largest)
    return known(spec["kind"], ActivationQuantizer)(**arguments)


def set_scale(quantizer: ActivationQuantizer, values: Tensor) -> None:
    """Set the scale of an input quantizer from what a file says.

    Raises:
        ValueError: it is no scale.
    """
    quantizer.unpack(values)
    state = [value for value in quantizer.state_dict().values() if value.is_floating_point()]
    if not values[0] > 0 or not all(value.isfinite().all() for value in state):
        raise ValueError(f"{values.tolist()} is no scale of inputs")


def _format(
    layer: LayerProfile, stored: Mapping[str, Any], codes: Tensor, mask: Tensor | None, spec: Mapping[str, Any] | None
) -> WeightFormat:
    """Return the transform that decodes the codes of a layer."""
    if spec is None:
        raise ValueError(f"layer {layer.name!r} has codes and nothing that decodes them")
    scale = stored["weight_scale"]
    shape = (len(scale), *[1] * (codes.dim() - 1)) if scale.numel() > 1 else ()
    scale = scale.view(shape) if scale.numel() else torch.ones(())
    arguments = {key: value for key, value in spec.items() if key != "kind"}
    untrusted.check_arguments(f"weight of layer {layer.name!r}", arguments, 1)
    kept = torch.ones((), dtype=torch.bool).expand(codes.shape) if mask is None else mask
    form = known(spec["kind"], WeightFormat).from_stored(
        StoredWeight(layer.weight_bits, codes, kept, scale, stored["codebook"]), **arguments
    )
    largest = form.decode(torch.arange(2**layer.weight_bits), scale.abs().max())
    if not largest.isfinite().all():
        raise ValueError(f"layer {layer.name!r}: its weights are not finite")
    return form


def _spread(mask: Tensor, values: Tensor) -> Tensor:
    """Return the values at the kept places, zeros at the others."""
    return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter_(mask, values)
