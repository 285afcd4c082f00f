"""Copies of a network that have no values.

What is asked about shapes alone needs no arithmetic: on torch's meta device a forward pass computes shapes, and takes
neither time nor memory for weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.surgery.copies import copy_with
from lightning_compress.surgery.transforms import bake

POINTWISE = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.GELU, nn.Sigmoid, nn.SiLU)


def without_values(net: nn.Module) -> nn.Module:
    """Return a copy of a network on the meta device, where shapes are computed and nothing else.

    Its weights are plain ones. A network that looks at values, or makes tensors on a device of its own choice, does not
    run there.

    Args:
        net: any module.

    Raises:
        Exception: of any kind, where a transform of a weight does not run on the meta device.
    """
    made = bake(copy_with(net, lambda tensor: torch.empty_like(tensor, device="meta")))
    for module in made.modules():
        kind: Any = type(module)
        if kind.forward in SIZES or kind in POINTWISE:  # torch computes their shapes step by step in Python
            module.forward = MethodType(_norm if kind.forward in SIZES else _pointwise, module)
    return made


def _pointwise(_module: nn.Module, x: Tensor) -> Tensor:
    return x.clone()


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Do what a norm does to shapes, and raise where it would."""
    kind: Any = type(norm)
    expected = SIZES[kind.forward](norm)
    found = x.shape[x.dim() - len(expected) :] if isinstance(norm, nn.LayerNorm) else x.shape[1:2]
    if tuple(found) != expected:
        raise ValueError(f"{norm} got the shape {tuple(x.shape)}")
    if kind.forward is nn.BatchNorm2d.forward and norm.training and math.prod(x.shape) == x.shape[1]:
        raise ValueError(f"{norm} got one value for each channel")
    return x.clone()


SIZES: dict[Any, Callable[[Any], tuple[int, ...]]] = {  # forward of a norm -> the sizes that it expects
    nn.BatchNorm2d.forward: lambda norm: (norm.num_features,),
    nn.GroupNorm.forward: lambda norm: (norm.num_channels,),
    nn.LayerNorm.forward: lambda norm: tuple(norm.normalized_shape),
}
