"""Translate each pooling of aten into operations of the graph."""

from __future__ import annotations

from typing import Any, cast

from torch import fx

from lightning_compress.export.integer.graph import AveragePool, MaxPool, Operation, Reshape
from lightning_compress.export.integer.walker import Value, Walker, module_of, pair, refuse, shape_of


def max_pool2d(
    walker: Walker, node: fx.Node, x: fx.Node, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False,
) -> Value:  # fmt: skip
    """Return a max pooling."""
    if ceil_mode or pair(dilation) != (1, 1):
        raise refuse(node, "ceil_mode and dilation are not supported")
    (rows, columns), kernel = pair(padding), pair(kernel)
    pool = MaxPool(module_of(node), (), "", kernel, pair(stride) if stride else kernel, (rows, rows, columns, columns))
    return walker.move(node, x, pool)


def avg_pool2d(
    walker: Walker, node: fx.Node, x: fx.Node, kernel: Any, stride: Any = (), padding: Any = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor: Any = None,
) -> Value:  # fmt: skip
    """Return an average pooling."""
    if ceil_mode or pair(padding) != (0, 0) or divisor is not None:
        raise refuse(node, "average pooling with padding, ceil_mode or a divisor is not supported")
    kernel = pair(kernel)
    return _average(walker, node, x, kernel, pair(stride) if stride else kernel)


def adaptive_avg_pool2d(walker: Walker, node: fx.Node, x: fx.Node, size: Any) -> Value:
    """Return an average pooling with windows of one size."""
    have, want = shape_of(x)[1:], shape_of(node)[1:]
    if any(h % w for h, w in zip(have, want, strict=True)):
        raise refuse(node, f"a map of {have} does not divide into {want} windows of one size")
    kernel = (have[0] // want[0], have[1] // want[1])
    return _average(walker, node, x, kernel, kernel)


def mean(walker: Walker, node: fx.Node, x: fx.Node, dims: Any = None, keepdim: bool = False, **_: Any) -> Value:
    """Return a mean over height and width: an average pooling over the whole map."""
    if len(shape_of(x)) != 3 or sorted(d % 4 for d in dims or ()) != [2, 3]:
        raise refuse(node, "means are over height and width")
    name = walker.read(x, node)
    tensor = walker.graph.tensors[name]
    size = cast(tuple[int, int], tensor.shape[1:])
    pool = AveragePool(module_of(node), (name,), "", size, size)
    pooled = walker.emit(pool, (tensor.shape[0], 1, 1), tensor.grid)
    if keepdim:
        return pooled
    return walker.emit(Reshape(module_of(node), (pooled,), ""), tensor.shape[:1], tensor.grid)


def _average(walker: Walker, node: fx.Node, x: fx.Node, kernel: tuple[int, int], stride: tuple[int, int]) -> Value:
    name = walker.read(x, node)  # not pending: rounding to a grid that was meant for means would clip
    if kernel == (1, 1) == stride:
        return walker.values[x]
    pool: Operation = AveragePool(module_of(node), (name,), "", kernel, stride)
    return walker.emit(pool, shape_of(node), walker.graph.tensors[name].grid)
