"""Kernels of the graph that have a weight: convolutions, transposed ones, linear layers, and the norms behind them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx

from lightning_compress.export.integer.graph import UNBOUNDED, Conv, ConvTranspose, Linear, Weighted
from lightning_compress.export.integer.walker import Pending, Value, Walker, module_of, pair, refuse, shape_of
from lightning_compress.surgery.row_layout import swapped


def conv2d(
    walker: Walker, node: fx.Node, x: fx.Node, weight: fx.Node, bias: fx.Node | None = None, stride: Any = 1,
    padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> Value:  # fmt: skip
    """Return a pending convolution."""
    values, scale, bits = _weight(walker, node, weight)
    kernel, dilation = values.shape[2:], pair(dilation)
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        padding = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
    else:
        rows, columns = pair(padding)
        padding = (rows, rows, columns, columns)
    core = Conv(
        module_of(node), (walker.read(x, node),), "", values, scale, _bias(walker, bias, len(values)), bits,
        UNBOUNDED, pair(stride), padding, dilation, groups,
    )  # fmt: skip
    return walker.pend(core, shape_of(node))


def conv_transpose2d(
    walker: Walker, node: fx.Node, x: fx.Node, weight: fx.Node, bias: fx.Node | None = None, stride: Any = 1,
    padding: Any = 0, output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Value:  # fmt: skip
    """Return a pending transposed convolution, its weight with the output channels first."""
    values, scale, bits = _weight(walker, node, weight)
    if not walker.integer:  # quantizers see output channels first, torch holds them second
        values = swapped(torch.from_numpy(values), groups).numpy()
    core = ConvTranspose(
        module_of(node), (walker.read(x, node),), "", values, scale, _bias(walker, bias, len(values)), bits,
        UNBOUNDED, pair(stride), pair(padding), pair(output_padding), pair(dilation), groups,
    )  # fmt: skip
    return walker.pend(core, shape_of(node))


def linear(walker: Walker, node: fx.Node, x: fx.Node, weight: fx.Node, bias: fx.Node | None = None) -> Value:
    """Return a pending matrix product."""
    if len(shape_of(node)) != 1:
        raise refuse(node, "linear layers over more than (batch, features) are not supported")
    values, scale, bits = _weight(walker, node, weight)
    core = Linear(module_of(node), (walker.read(x, node),), "", values, scale, _bias(walker, bias, len(values)), bits)
    return walker.pend(core, shape_of(node))


def _weight(walker: Walker, node: fx.Node, weight: fx.Node) -> tuple[np.ndarray, np.ndarray | None, int]:
    if weight not in walker.constants:
        raise refuse(node, "its weight is computed from activations")
    layer = walker.parameters[weight].removesuffix(".weight")
    if not walker.integer:
        return walker.constants[weight], None, 32
    if layer not in walker.levels:
        raise refuse(node, f"the weight of layer {layer!r} is not quantized")
    found = walker.levels[layer]
    return found.values.astype(np.float64), found.scale, found.bits


def _bias(walker: Walker, bias: fx.Node | None, width: int) -> np.ndarray:
    return np.zeros(width) if bias is None else walker.constants[bias]


def batch_norm(
    walker: Walker, node: fx.Node, x: fx.Node, weight: Any, bias: Any, mean: Any, var: Any, training: bool,
    momentum: float, eps: float, *_: Any,
) -> Value:  # fmt: skip
    """Fold the norm into the convolution before it; one that stands alone is a depthwise 1x1 convolution."""
    if training or mean is None:
        raise refuse(node, "it takes statistics of the batch; use track_running_stats=True and eval mode")
    constants = walker.constants
    factor = 1 / np.sqrt(constants[var] + eps)
    factor = factor if weight is None else factor * constants[weight]
    shift = -constants[mean] * factor + (0 if bias is None else constants[bias])
    value = walker.values[x]
    if len(x.users) == 1 and isinstance(value, Pending) and not value.after:
        core = value.core
        if isinstance(core, Weighted) and core.bounds == UNBOUNDED:
            return walker.pend(_scaled(core, factor, shift), value.shape)  # a copy of it may be read without the norm
    if len(shape_of(node)) != 3:
        raise refuse(node, "a batch norm without a layer before it needs (channels, height, width)")
    width = len(factor)
    values, scale = factor.reshape(width, 1, 1, 1), None
    if walker.integer:
        values, scale = 127 * np.sign(values), np.abs(factor) / 127
    bits = 8 if walker.integer else 32
    conv = Conv(module_of(node), (walker.read(x, node),), "", values, scale, shift, bits, groups=width)
    return walker.pend(conv, shape_of(node))


def _scaled(core: Weighted, factor: np.ndarray, shift: np.ndarray) -> Weighted:
    bias = core.bias * factor + shift
    if core.scale is not None:
        return replace(core, scale=core.scale * factor, bias=bias)
    return replace(core, weight=core.weight * factor.reshape(-1, *[1] * (core.weight.ndim - 1)), bias=bias)
