"""Kernels of the graph for each aten operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import fx

from lightning_compress.export.integer.graph import (
    Add,
    Bounds,
    Clip,
    Concat,
    Grid,
    HardSwish,
    MaxPool,
    Multiply,
    Pad,
    Reshape,
    Sigmoid,
    Weighted,
)
from lightning_compress.export.integer.pooling import adaptive_avg_pool2d, avg_pool2d, max_pool2d, mean
from lightning_compress.export.integer.walker import Pending, Value, Walker, module_of, refuse, shape_of
from lightning_compress.export.integer.weighted import batch_norm, conv2d, conv_transpose2d, linear
from lightning_compress.surgery._torch import ASSERT_METADATA

aten = torch.ops.aten
SIGMOID_GRID = Grid(1 / 256, 0, 255)


def _clip(walker: Walker, node: fx.Node, x: fx.Node, bounds: Bounds) -> Value:
    value = walker.values[x]
    if isinstance(value, Pending) and value.bounds is not None and (walker.integer or len(x.users) == 1):
        low, high = value.bounds
        both = (_tighter(low, bounds[0], max), _tighter(high, bounds[1], min))
        if all(isinstance(op, MaxPool | Reshape) for op, _ in value.after):  # clipping first gives the same
            return replace(value, core=replace(cast(Weighted, value.core), bounds=both))
    return walker.move(node, x, Clip(module_of(node), (), "", bounds))


def _tighter(a: float | None, b: float | None, choose: Callable[[float, float], float]) -> float | None:
    return b if a is None else a if b is None else choose(a, b)


def relu(walker: Walker, node: fx.Node, x: fx.Node) -> Value:
    """Return what is clipped at zero."""
    return _clip(walker, node, x, (0.0, None))


def relu6(walker: Walker, node: fx.Node, x: fx.Node) -> Value:
    """Return what is clipped at zero and six."""
    return _clip(walker, node, x, (0.0, 6.0))


def hardtanh(walker: Walker, node: fx.Node, x: fx.Node, low: float = -1.0, high: float = 1.0) -> Value:
    """Return what is clipped at both ends."""
    return clamp(walker, node, x, low, high)


def clamp(walker: Walker, node: fx.Node, x: fx.Node, low: Any = None, high: Any = None) -> Value:
    """Return what is clipped at both ends; kernels have 0, and 0 to 6."""
    if (low, high) not in ((0, 6), (0, None)):
        raise refuse(node, f"it clips at {low} and {high}, and kernels clip at 0, or at 0 and 6")
    return _clip(walker, node, x, (0.0, None if high is None else 6.0))


def add(walker: Walker, node: fx.Node, a: Any, b: Any, alpha: float = 1) -> Value:
    """Return a pending sum."""
    if alpha != 1 or not (isinstance(a, fx.Node) and isinstance(b, fx.Node)) or shape_of(a) != shape_of(b):
        raise refuse(node, "sums are of two activations of one shape")
    if a in walker.constants or b in walker.constants:
        raise refuse(node, "sums are of two activations, and one is a parameter")
    return walker.pend(Add(module_of(node), (walker.read(a, node), walker.read(b, node)), ""), shape_of(node))


def mul(walker: Walker, node: fx.Node, a: Any, b: Any) -> Value:
    """Return a pending product; a factor of shape (channels, 1, 1) comes second."""
    if not (isinstance(a, fx.Node) and isinstance(b, fx.Node)) or {a, b} & walker.constants.keys():
        raise refuse(node, "products are of two activations")
    if shape_of(a) != shape_of(node):
        a, b = b, a
    if shape_of(a) != shape_of(node) or shape_of(b) not in (shape_of(a), (*shape_of(a)[:1], 1, 1)):
        raise refuse(node, "products are of one shape, or with one factor per channel")
    return walker.pend(Multiply(module_of(node), (walker.read(a, node), walker.read(b, node)), ""), shape_of(node))


def sigmoid(walker: Walker, node: fx.Node, x: fx.Node) -> Value:
    """Return a logistic function, whose grid is fixed."""
    return _sigmoid(walker, node, walker.read(x, node))


def _sigmoid(walker: Walker, node: fx.Node, name: str) -> str:
    grid = SIGMOID_GRID if walker.integer else None
    return walker.emit(Sigmoid(module_of(node), (name,), ""), walker.graph.tensors[name].shape, grid)


def silu(walker: Walker, node: fx.Node, x: fx.Node) -> Value:
    """Return a pending ``x * sigmoid(x)``."""
    name = walker.read(x, node)
    return walker.pend(Multiply(module_of(node), (name, _sigmoid(walker, node, name)), ""), shape_of(node))


def hardswish(walker: Walker, node: fx.Node, x: fx.Node) -> Value:
    """Return a pending hard swish."""
    return walker.pend(HardSwish(module_of(node), (walker.read(x, node),), ""), shape_of(node))


def cat(walker: Walker, node: fx.Node, tensors: Sequence[fx.Node], dim: int = 0) -> Value:
    """Return a concatenation over channels: its parts get the grid that comes behind it."""
    if dim % (1 + len(shape_of(node))) != 1:
        raise refuse(node, "concatenations are over channels")
    values = tuple(walker.values[tensor] for tensor in tensors)
    core = Concat(module_of(node), (), "")
    if not walker.integer:
        return walker.emit(replace(core, inputs=tuple(walker.read(t, node) for t in tensors)), shape_of(node), None)
    grids = {None if isinstance(value, Pending) else walker.graph.tensors[value].grid for value in values}
    if len(grids) == 1 and None not in grids:
        return walker.emit(replace(core, inputs=cast(tuple[str, ...], values)), shape_of(node), grids.pop())
    return walker.pend(core, shape_of(node), values)


def reshape(walker: Walker, node: fx.Node, x: fx.Node, *_: Any, **__: Any) -> Value:
    """Return the values in another shape; the batch stays."""
    if node.meta["val"].shape[0] != x.meta["val"].shape[0]:
        raise refuse(node, "the batch must stay the first dimension")
    if shape_of(node) == shape_of(x):
        return walker.values[x]
    if len(shape_of(node)) != 1 and shape_of(node) != (*shape_of(x), 1, 1):
        raise refuse(node, f"it reshapes {shape_of(x)} to {shape_of(node)}, and only flattening is supported")
    return walker.move(node, x, Reshape(module_of(node), (), ""))


def pad(
    walker: Walker, node: fx.Node, x: fx.Node, sizes: Sequence[int], mode: str = "constant", value: Any = 0
) -> Value:
    """Return what is padded with zeros."""
    if len(shape_of(x)) != 3:
        raise refuse(node, f"it pads {shape_of(x)}, and kernels pad (channels, height, width)")
    if mode != "constant" or value or len(sizes) > 4 or any(n < 0 for n in sizes):
        raise refuse(node, "padding is with zeros, of height and width")
    left, right, top, bottom = (*sizes, 0, 0, 0, 0)[:4]
    return walker.move(node, x, Pad(module_of(node), (), "", (top, bottom, left, right)))


def same(walker: Walker, node: fx.Node, x: fx.Node, *_: Any, **__: Any) -> Value:
    """Return what is read: copies and identities do nothing here."""
    return walker.values[x]


def dropout(walker: Walker, node: fx.Node, x: fx.Node, p: float, train: bool) -> Value:
    """Return what is read, for dropout does nothing in eval mode."""
    if train and p:
        raise refuse(node, "it draws random numbers in eval mode; pass training=self.training")
    return walker.values[x]


def to(walker: Walker, node: fx.Node, x: fx.Node, *_: Any, **__: Any) -> Value:
    """Return what is read, where both types are of floating point."""
    before, after = x.meta["val"].dtype, node.meta["val"].dtype
    if not (before.is_floating_point and after.is_floating_point):
        raise refuse(node, f"it makes {after} of {before}, and all tensors are of floating point")
    return walker.values[x]


KERNELS: dict[Any, Callable[..., Value]] = {
    aten.conv2d.default: conv2d,
    aten.conv2d.padding: conv2d,
    aten.conv_transpose2d.input: conv_transpose2d,
    aten.linear.default: linear,
    aten.batch_norm.default: batch_norm,
    aten.relu.default: relu,
    aten.relu_.default: relu,
    aten.relu6.default: relu6,
    aten.hardtanh.default: hardtanh,
    aten.hardtanh_.default: hardtanh,
    aten.clamp.default: clamp,
    aten.clamp_min.default: clamp,
    aten.add.Tensor: add,
    aten.add_.Tensor: add,
    aten.mul.Tensor: mul,
    aten.mul_.Tensor: mul,
    aten.sigmoid.default: sigmoid,
    aten.silu.default: silu,
    aten.silu_.default: silu,
    aten.hardswish.default: hardswish,
    aten.hardswish_.default: hardswish,
    aten.cat.default: cat,
    aten.max_pool2d.default: max_pool2d,
    aten.avg_pool2d.default: avg_pool2d,
    aten.adaptive_avg_pool2d.default: adaptive_avg_pool2d,
    aten.mean.dim: mean,
    aten.flatten.using_ints: reshape,
    aten.view.default: reshape,
    aten.reshape.default: reshape,
    aten.squeeze.dims: reshape,
    aten.pad.default: pad,
    aten.dropout.default: dropout,
    aten.dropout_.default: dropout,
    aten.feature_dropout.default: dropout,
    aten.contiguous.default: same,
    aten.clone.default: same,
    aten.detach_.default: same,
    aten.alias.default: same,
    aten.to.dtype: to,
    ASSERT_METADATA: lambda walker, node, *_, **__: "",
}
