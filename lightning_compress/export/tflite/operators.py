"""Each operation of the graph as TFLite operators."""

from __future__ import annotations

from functools import singledispatch
from typing import Any, cast

import numpy as np

from lightning_compress.core.costs.tflite_bytes import INT4_BITS
from lightning_compress.export.integer.graph import (
    Add,
    AveragePool,
    Bounds,
    Clip,
    Concat,
    Conv,
    ConvTranspose,
    Graph,
    HardSwish,
    Linear,
    MaxPool,
    Multiply,
    Operation,
    Pad,
    Requantize,
    Reshape,
    Sigmoid,
    Weighted,
)
from lightning_compress.export.integer.marked import NoIntegerFormError, no_form
from lightning_compress.export.tflite.builder import Builder, nhwc
from lightning_compress.export.tflite.padding import Four, cropped, placed

WITH_ACTIVATION = 4  # version of the operator that has a bias and an activation function
LARGEST = 7  # of the levels of 4 bits
CLIPS: dict[Bounds, str] = {(0.0, None): "RELU", (0.0, 6.0): "RELU6"}


def write(operation: Operation, b: Builder) -> None:
    """Add the operators of one operation; activations of fewer than 8 bits are clipped behind it."""
    grid = b.graph.tensors[operation.output].grid
    full = grid is None or (grid.low, grid.high) in ((0, 255), (-128, 127), (-127, 127))
    if grid is None or full or isinstance(operation, Reshape | AveragePool | MaxPool | Concat | Pad):
        add(operation, b)
        return
    index = b.activation(operation.output)
    add(operation, b)
    for code, level in (("MINIMUM", grid.high), ("MAXIMUM", grid.low)):
        if level != 0:
            before, index = index, b.like(b.graph.tensors[operation.output], f"{operation.output}/{code.lower()}")
            bound = b.stored(f"{operation.output}/{level}", level, grid)
            b.operator(code, 2, [before, bound], index, b.s.MaximumMinimumOptionsT())
    b.index[operation.output] = index


@singledispatch
def add(operation: Operation, b: Builder) -> None:
    """Add the operators of one operation."""
    raise no_form(operation, ".tflite files")


def _version(b: Builder, operation: Operation, integer: int, floating: int = 1) -> int:
    return floating if b.graph.tensors[operation.output].grid is None else integer


def _activation(b: Builder, bounds: Bounds) -> int:
    kinds = b.s.ActivationFunctionType
    return {(None, None): kinds.NONE, (0.0, None): kinds.RELU, (0.0, 6.0): kinds.RELU6}[bounds]


def in_nibbles(operation: Weighted) -> bool:
    """Return whether ``TFLite(int4=True)`` stores two weights of an operation in a byte.

    TFLite-Micro has no kernel for 4 bits in transposed convolutions, nor in linear layers with a scale per channel.
    """
    if operation.scale is None or operation.bits > INT4_BITS or int(np.abs(operation.weight).max(initial=0)) > LARGEST:
        return False
    if isinstance(operation, Linear):
        return bool((operation.scale == operation.scale[0]).all())
    return not isinstance(operation, ConvTranspose)


def _weight(operation: Weighted, b: Builder, weight: np.ndarray, dim: int) -> tuple[list[int], bool]:
    """Add weight and bias; return their numbers, and whether the weight is stored in 4 bits."""
    name, scale = operation.output, operation.scale
    if scale is None:
        return [b.constant(f"{name}/weight", weight), b.constant(f"{name}/bias", operation.bias)], False
    int4 = b.int4 and in_nibbles(operation)
    if isinstance(operation, Linear):
        scale = scale[:1] if (scale == scale[0]).all() else scale
    unit = np.float32(b.graph.grid(operation.inputs[0]).scale) * scale
    found = b.constant(f"{name}/weight", weight, scale, dim, int4)
    return [found, b.constant(f"{name}/bias", operation.bias, unit)], int4


@add.register
def _(operation: Conv, b: Builder) -> None:
    s, (rows, columns) = b.s, operation.weight.shape[2:]
    kind, source = _padded(operation, b, (rows, columns), operation.dilation, 0)
    options = s.DepthwiseConv2DOptionsT() if operation.depthwise else s.Conv2DOptionsT()
    if operation.depthwise:
        weight = operation.weight.transpose(2, 3, 0, 1).reshape(1, rows, columns, -1)
        options.depthMultiplier = operation.weight.shape[0] // operation.groups
    else:
        weight = operation.weight.transpose(0, 2, 3, 1)
    constants, int4 = _weight(operation, b, weight, 3 if operation.depthwise else 0)
    options.padding = getattr(s.Padding, kind)
    options.strideH, options.strideW = operation.stride
    options.dilationHFactor, options.dilationWFactor = operation.dilation
    options.fusedActivationFunction = _activation(b, operation.bounds)
    code, version = ("DEPTHWISE_CONV_2D", 6 if int4 else 3) if operation.depthwise else ("CONV_2D", 7 if int4 else 3)
    version = _version(b, operation, version, 2 if operation.depthwise else 1)
    b.operator(code, version, [source, *constants], b.activation(operation.output), options)


@add.register
def _(operation: ConvTranspose, b: Builder) -> None:
    _check_transposed(operation)
    s, before, after = b.s, b.graph.tensors[operation.inputs[0]], b.graph.tensors[operation.output]
    rows, columns = operation.weight.shape[2:]
    kind, zeros = cropped((rows, columns), operation.stride, operation.padding, operation.output_padding)
    shape, target = nhwc(after.shape), b.activation(operation.output)
    if kind == "VALID" and operation.padding != (0, 0):
        made = zip(before.shape[1:], operation.stride, (rows, columns), operation.output_padding, strict=True)
        shape = (*((size - 1) * step + width + more for size, step, width, more in made), after.shape[0])
        target = b.like(after, f"{operation.output}/whole", shape)
    weight = np.pad(operation.weight, ((0, 0), (0, 0), *zeros)).transpose(0, 2, 3, 1)
    constants, _ = _weight(operation, b, weight, 0)
    options = s.TransposeConvOptionsT()
    options.padding = getattr(s.Padding, kind)
    options.strideH, options.strideW = operation.stride
    options.fusedActivationFunction = _activation(b, operation.bounds)
    sizes = b.constant(f"{operation.output}/shape", np.array([1, *shape], np.int32))
    inputs = [sizes, constants[0], b.activation(operation.inputs[0]), constants[1]]
    b.operator("TRANSPOSE_CONV", WITH_ACTIVATION, inputs, target, options)
    if target != b.activation(operation.output):
        begin = b.constant(f"{operation.output}/begin", np.array([0, *operation.padding, 0], np.int32))
        size = b.constant(f"{operation.output}/size", np.array([1, *nhwc(after.shape)], np.int32))
        version = _version(b, operation, 2)
        b.operator("SLICE", version, [target, begin, size], b.activation(operation.output), s.SliceOptionsT())


def _check_transposed(operation: ConvTranspose) -> None:
    """Raise a sentence for a transposed convolution that TFLite has no operator for."""
    place = f"export: transposed convolution {operation.module!r}"
    if operation.groups != 1:
        raise NoIntegerFormError(f"{place} has {operation.groups} groups, and .tflite files hold one; use groups=1")
    if operation.dilation != (1, 1):
        raise NoIntegerFormError(f"{place} has dilation {operation.dilation}, and .tflite files hold 1; use dilation=1")


@add.register
def _(operation: Linear, b: Builder) -> None:
    weight = operation.weight
    if operation.inputs[0] in b.flattened:
        shape = b.flattened[operation.inputs[0]]
        weight = weight.reshape(len(weight), *shape).transpose(0, 2, 3, 1).reshape(len(weight), -1)
    constants, int4 = _weight(operation, b, weight, 0)
    options = b.s.FullyConnectedOptionsT()
    options.fusedActivationFunction = _activation(b, operation.bounds)
    inputs = [b.activation(operation.inputs[0]), *constants]
    version = _version(b, operation, 7 if int4 else 4)
    b.operator("FULLY_CONNECTED", version, inputs, b.activation(operation.output), options)


@add.register
def _(operation: Add, b: Builder) -> None:
    options = b.s.AddOptionsT()
    options.fusedActivationFunction = _activation(b, operation.bounds)
    _simple(operation, b, "ADD", 2, options)


@add.register
def _(operation: Multiply, b: Builder) -> None:
    options = b.s.MulOptionsT()
    options.fusedActivationFunction = _activation(b, operation.bounds)
    _simple(operation, b, "MUL", 2, options)


@add.register
def _(operation: Sigmoid, b: Builder) -> None:
    _simple(operation, b, "LOGISTIC", 2)


@add.register
def _(operation: HardSwish, b: Builder) -> None:
    _simple(operation, b, "HARD_SWISH", 1, b.s.HardSwishOptionsT())


@add.register
def _(operation: Requantize, b: Builder) -> None:
    _simple(operation, b, "QUANTIZE", 2, b.s.QuantizeOptionsT())


@add.register
def _(operation: Clip, b: Builder) -> None:
    _simple(operation, b, CLIPS[operation.bounds], 2)


@add.register
def _(operation: Concat, b: Builder) -> None:
    options = b.s.ConcatenationOptionsT()
    options.axis = len(b.graph.tensors[operation.output].shape)
    _simple(operation, b, "CONCATENATION", 2, options)


def _simple(operation: Operation, b: Builder, code: str, version: int, options: Any = None) -> None:
    if operation.inputs[0] in b.flattened:
        b.flattened[operation.output] = b.flattened[operation.inputs[0]]
    inputs = [b.activation(name) for name in operation.inputs]
    b.operator(code, _version(b, operation, version), inputs, b.activation(operation.output), options)


@add.register
def _(operation: AveragePool, b: Builder) -> None:
    _pool(operation, b, "AVERAGE_POOL_2D", "VALID", b.activation(operation.inputs[0]))


@add.register
def _(operation: MaxPool, b: Builder) -> None:
    grid = b.graph.tensors[operation.inputs[0]].grid
    lowest = float("-inf") if grid is None else grid.low
    kind, source = _padded(operation, b, operation.kernel, (1, 1), lowest)
    _pool(operation, b, "MAX_POOL_2D", kind, source)


def _pool(operation: AveragePool | MaxPool, b: Builder, code: str, kind: str, source: int) -> None:
    options = b.s.Pool2DOptionsT()
    options.padding = getattr(b.s.Padding, kind)
    options.strideH, options.strideW = operation.stride
    options.filterHeight, options.filterWidth = operation.kernel
    b.operator(code, _version(b, operation, 2), [source], b.activation(operation.output), options)


@add.register
def _(operation: Reshape, b: Builder) -> None:
    (name,) = operation.inputs
    before, after = b.graph.tensors[name].shape, b.graph.tensors[operation.output].shape
    source = b.activation(name)
    if len(before) == 3 and before[0] > 1 and before[1] * before[2] > 1:
        if _only_products_read(b.graph, operation.output):
            b.flattened[operation.output] = before
        else:
            source = _channels_first(operation, b, source)
    shape = b.constant(f"{operation.output}/shape", np.array([-1, *nhwc(after)], np.int32))
    b.operator("RESHAPE", 1, [source, shape], b.activation(operation.output))


def _only_products_read(graph: Graph, name: str) -> bool:
    """Return whether linear layers alone read a tensor, whose weights can take its values in any order."""
    return name != graph.output and all(
        isinstance(reader, Linear)
        or (isinstance(reader, Clip | HardSwish | Requantize | Sigmoid) and _only_products_read(graph, reader.output))
        for reader in graph.readers(name)
    )


def _channels_first(operation: Reshape, b: Builder, source: int) -> int:
    before = b.graph.tensors[operation.inputs[0]]
    target = b.like(before, f"{operation.output}/turned", before.shape)
    order = b.constant(f"{operation.output}/order", np.array([0, 3, 1, 2], np.int32))
    b.operator("TRANSPOSE", _version(b, operation, 2), [source, order], target, b.s.TransposeOptionsT())
    return target


@add.register
def _(operation: Pad, b: Builder) -> None:
    _pad(b, operation.inputs[0], operation.padding, 0, b.activation(operation.output))


def _padded(
    operation: Conv | MaxPool, b: Builder, kernel: tuple[int, int], dilation: tuple[int, int], fill: float
) -> tuple[str, int]:
    """Return the kind of padding, and the number of the tensor to read: a padded copy where torch pads its own way."""
    (name,) = operation.inputs
    before, after = b.graph.tensors[name], b.graph.tensors[operation.output]
    sizes = cast(tuple[tuple[int, int], tuple[int, int]], (before.shape[1:], after.shape[1:]))
    kind, sides = placed(*sizes, kernel, operation.stride, dilation, operation.padding)
    if not any(sides):
        return kind, b.activation(name)
    channels, height, width = before.shape
    shape = (height + sides[0] + sides[1], width + sides[2] + sides[3], channels)
    target = b.like(before, f"{operation.output}/padded", shape)
    _pad(b, name, sides, fill, target)
    return kind, target


def _pad(b: Builder, name: str, sides: Four, fill: float, target: int) -> None:
    """Add a PAD, which fills with level 0, or a PADV2 with another level."""
    grid = b.graph.tensors[name].grid
    top, bottom, left, right = sides
    paddings = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
    inputs = [b.activation(name), b.constant(f"{name}/paddings/{target}", paddings)]
    version = 1 if grid is None else 2
    if fill == 0:
        b.operator("PAD", version, inputs, target, b.s.PadOptionsT())
        return
    filler = (
        b.constant(f"{name}/fill/{target}", np.array([fill], np.float32))
        if grid is None
        else b.stored(f"{name}/fill/{target}", int(fill), grid)
    )
    b.operator("PADV2", version, [*inputs, filler], target, b.s.PadV2OptionsT())
