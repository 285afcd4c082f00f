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
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_compress.surgery.copies import copy_with
from lightning_compress.surgery.transforms import bake

IMAGES = 4  # dimensions of a batch of images
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
    made.forward = MethodType(_with_shapes_alone, made)
    return made


def _with_shapes_alone(net: nn.Module, *args: Any, **kwargs: Any) -> Any:
    kind: Any = type(net)
    with _ShapesAlone():
        return kind.forward(net, *args, **kwargs)


class _ShapesAlone(TorchFunctionMode):
    """Puts functions that give the same shapes at once in the place of those that torch has in Python for them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return SHORTCUTS.get(func, func)(*args, **(kwargs or {}))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if bias is not None and bias.shape != weight.shape[:-1]:
        raise ValueError(f"a bias of the shape {tuple(bias.shape)} for a weight of the shape {tuple(weight.shape)}")
    return F.linear(input, weight)


def _interpolate(input: Tensor, size: Any = None, scale_factor: Any = None, *_: Any, **__: Any) -> Tensor:
    return F.interpolate(input, size, scale_factor)


def _adaptive_pool(input: Tensor, output_size: Any) -> Tensor:
    sizes = output_size if isinstance(output_size, tuple | list) else (output_size,)
    if input.dim() != IMAGES or None in sizes:
        return F.adaptive_avg_pool2d(input, output_size)
    return F.interpolate(input, output_size)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    *_: Any,
    **__: Any,
) -> Tensor:
    widths = {len(t) for t in (running_mean, running_var, weight, bias) if t is not None}
    if widths - {input.shape[1]} or (training and math.prod(input.shape) == input.shape[1]):
        raise ValueError(f"batch norm of {sorted(widths)} channels got the shape {tuple(input.shape)}")
    return input.clone()


def _layer_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    shapes = {tuple(normalized_shape), *(tuple(t.shape) for t in (weight, bias) if t is not None)}
    if shapes != {tuple(input.shape[input.dim() - len(normalized_shape) :])}:
        raise ValueError(f"layer norm of the shapes {sorted(shapes)} got the shape {tuple(input.shape)}")
    return input.clone()


def _value_by_value(input: Tensor, *_: Any, **__: Any) -> Tensor:
    return input.clone()


SHORTCUTS: dict[Any, Callable[..., Tensor]] = {
    F.linear: _linear,
    F.interpolate: _interpolate,
    F.adaptive_avg_pool2d: _adaptive_pool,
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.gelu: _value_by_value,
    F.silu: _value_by_value,
    F.hardswish: _value_by_value,
    torch.sigmoid: _value_by_value,
    Tensor.sigmoid: _value_by_value,
}


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
