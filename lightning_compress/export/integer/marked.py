"""Prepare a copy of a network for ``torch.export``: weights as plain values, activation grids as one operation each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.quantization.quantizers.activation import ActivationQuantizer
from lightning_compress.quantization.quantizers.weight import WeightQuantizer
from lightning_compress.surgery import transforms
from lightning_compress.surgery._torch import own_children
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.mask import Mask
from lightning_compress.surgery.measure import KERNELS
from lightning_compress.surgery.row_layout import Swapped, weight_rows
from lightning_compress.surgery.structure import network


@torch.library.custom_op("lightning_compress::grid", mutates_args=())
def grid(x: Tensor, scale: float, low: int, high: int) -> Tensor:
    """Round ``x`` to ``scale * level`` with levels from ``low`` to ``high``."""
    return torch.round(x / scale).clamp(low, high) * scale


@grid.register_fake
def _(x: Tensor, scale: float, low: int, high: int) -> Tensor:
    return torch.empty_like(x)


@dataclass(frozen=True)
class Levels:
    """A quantized weight.

    Attributes:
        values: int16 levels, shape of the weight with the output channels first.
        scale: float64, ``(out,)``; may be negative or zero.
        bits: of a level.
    """

    values: np.ndarray
    scale: np.ndarray
    bits: int


@final
class Marker(transforms.Transform):
    """Stands for an activation quantizer in an exported program."""

    def __init__(self, scale: float, low: int, high: int) -> None:
        super().__init__()
        self.scale, self.low, self.high = scale, low, high

    @override
    def forward(self, x: Tensor) -> Tensor:
        return grid(x, self.scale, self.low, self.high)


class NoIntegerFormError(CompressError):
    """A network, or a part of it, has no form in the graph."""


def no_form(operation: Any, where: str) -> NoIntegerFormError:
    """Return the error for an operation of a graph that a writer or an emulation does not know."""
    return NoIntegerFormError(
        f"export: {type(operation).__name__} of module {operation.module!r} has no form in {where}"
    )


class UnquantizedError(NoIntegerFormError):
    """A tensor between two kernels is on no grid."""


@torch.no_grad()
def marked(module: nn.Module) -> tuple[nn.Module, dict[str, Levels]]:
    """Return a copy of the network with markers in place of quantizers, and the levels of its weights by layer.

    Args:
        module: a LightningModule or a network; it is not changed.

    Raises:
        NoIntegerFormError: a weight has no integer levels that 8 bits hold.
        CompressError: an activation quantizer has seen no batch yet.
    """
    net = clone(network(module)).cpu().eval()
    levels: dict[str, Levels] = {}
    for name, layer in transforms.transformed(net).items():
        chain = transforms.weight_transforms(layer)
        if isinstance(layer, KERNELS) and any(not isinstance(t, Mask) for t in chain):
            levels[name] = _levels(name, layer)
        transforms.bake_weight(layer)
        _mark(name, layer, transforms.INPUT, transforms.drop_input, transforms.attach_input)
        _mark(name, layer, transforms.OUTPUT, transforms.drop_output, transforms.attach_output)
    return net, levels


def drop_markers(net: nn.Module) -> None:
    """Take all markers off a network, in place."""
    for layer in transforms.transformed(net).values():
        transforms.drop_input(layer)
        transforms.drop_output(layer)


def _mark(name: str, layer: nn.Module, slot: str, drop: Any, attach: Any) -> None:
    quantizer = own_children(layer).get(slot)
    if quantizer is None:
        return
    drop(layer)
    if not isinstance(quantizer, ActivationQuantizer):
        return
    if not quantizer.has_grid:
        raise CompressError(
            f"export: the {slot.partition('_')[0]} quantizer of layer {name!r} has seen no batch, so it has no scale; "
            f"train or validate the network first, or pass calibration="
        )
    scale = float(np.float32(quantizer.scale_for(torch.zeros(1)).item()))
    attach(layer, Marker(scale, int(quantizer.low), int(quantizer.high)))


def _levels(name: str, layer: nn.Module) -> Levels:
    """Return the levels of a layer's weight, output channels first.

    Those of half steps are doubled, and masked weights are 0.
    """
    quantizers = [t for t in transforms.weight_transforms(layer) if not isinstance(t, Mask | Swapped)]
    if len(quantizers) != 1 or not isinstance(quantizers[0], WeightQuantizer):
        raise NoIntegerFormError(
            f"export: the weight of layer {name!r} goes through {[type(t).__name__ for t in quantizers]}, whose values "
            f"are no multiples of one scale"
        )
    quantizer = quantizers[0]
    codes, scale = quantizer.codes(transforms.weight_before(layer, quantizer))
    steps = 2 if float(quantizer.shift) else 1
    values = (steps * (codes.double() + quantizer.zero.double())).round() * (weight_rows(layer) != 0)
    if float(values.abs().amax()) > 128:
        raise NoIntegerFormError(
            f"export: the weight of layer {name!r} has levels up to {int(values.abs().amax())} of half a step, and 8 "
            f"bits hold 127; use {type(quantizer).__name__} with 7 bits or fewer, or another quantizer"
        )
    per_channel = scale.detach().double().flatten().expand(values.shape[0]) / steps
    return Levels(values.cpu().numpy().astype(np.int16), per_channel.cpu().numpy().copy(), int(quantizer.bits))
