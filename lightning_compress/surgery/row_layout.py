"""Weights with their output channels first, as quantizers scale them and packed files hold them.

A transposed convolution has them second, and in groups: ``(in, out / groups, *kernel)``. Between two transforms that
change the order, a quantizer sees ``(out, in / groups, *kernel)``, as of a convolution.
"""

from __future__ import annotations

from typing import Any, ClassVar, final

from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.surgery._torch import ConvTransposeBase
from lightning_compress.surgery.transforms import WEIGHT, Transform, attach_weight


def swapped(weight: Tensor, groups: int) -> Tensor:
    """Return a weight with the channels of its two sides swapped within each group: twice is the weight itself.

    Args:
        weight: shape ``(in, out / groups, *kernel)``, or ``(out, in / groups, *kernel)``.
        groups: of the convolution.
    """
    first, second, *kernel = weight.shape
    by_group = weight.reshape(groups, first // groups, second, *kernel).transpose(1, 2)
    return by_group.reshape(groups * second, first // groups, *kernel)


@final
class Swapped(Transform):
    """Swaps the channels of both sides of the weight of a transposed convolution.

    Args:
        groups: of the convolution.
    """

    kind: ClassVar[str] = "swapped"

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups

    @override
    def config(self) -> dict[str, Any]:
        return {"groups": self.groups}

    @override
    def forward(self, weight: Tensor) -> Tensor:
        return swapped(weight, self.groups)


def weight_rows(layer: nn.Module, key: str = WEIGHT) -> Tensor:
    """Return a weight of a layer with its output channels first.

    Args:
        layer: any with a weight.
        key: name of the weight.
    """
    return as_rows(layer, getattr(layer, key))


def as_rows(layer: nn.Module, values: Tensor) -> Tensor:
    """Return what has the shape of a layer's weight, as its gradient has, with the output channels first, or back.

    Args:
        layer: any with a weight.
        values: of that shape, or with the output channels first.
    """
    return swapped(values, layer.groups) if isinstance(layer, ConvTransposeBase) else values


def attach_to_rows(layer: nn.Module, transform: Transform, key: str = WEIGHT) -> None:
    """Let a weight go through a transform that sees its output channels first, before what is attached already.

    Args:
        layer: any with a weight.
        transform: of a weight as :func:`weight_rows` returns it.
        key: name of the weight.
    """
    if isinstance(layer, ConvTransposeBase):
        attach_weight(layer, Swapped(layer.groups), first=True)
        attach_weight(layer, transform, first=True)
        attach_weight(layer, Swapped(layer.groups), first=True)
    else:
        attach_weight(layer, transform, first=True, key=key)
