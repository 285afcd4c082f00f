"""Each operation of the graph as ONNX nodes."""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from lightning_compress.export.integer.graph import (
    UNBOUNDED,
    Add,
    AveragePool,
    Clip,
    Concat,
    Conv,
    ConvTranspose,
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
from lightning_compress.export.integer.marked import no_form
from lightning_compress.export.onnx.builder import Builder
from lightning_compress.export.onnx.widen import MoreChannels


def write(operation: Operation, b: Builder) -> None:
    """Add the nodes of one operation, and quantize its output where that is on a grid."""
    b.put(operation.output, add(operation, b), getattr(operation, "bounds", UNBOUNDED))


@singledispatch
def add(operation: Operation, b: Builder) -> str:
    """Add the nodes of one operation; return the name of its float output."""
    raise no_form(operation, ".onnx files")


def _simple(operation: Operation, b: Builder, kind: str, **attributes: object) -> str:
    return b.node(kind, [b.read(name) for name in operation.inputs], f"{operation.output}/float", **attributes)


def _weights(operation: Weighted, b: Builder, inputs_first: bool = False) -> list[str]:
    name, axis = operation.output, int(inputs_first)
    weight = operation.weight.swapaxes(0, axis)
    if operation.scale is None:
        return [b.constant(f"{name}/weight", weight), b.constant(f"{name}/bias", operation.bias)]
    unit = np.float32(b.graph.grid(operation.inputs[0]).scale) * operation.scales
    return [
        b.dequantized(f"{name}/weight", weight, operation.scale, axis),
        b.dequantized(f"{name}/bias", operation.bias, unit),
    ]


def _sides(padding: tuple[int, int, int, int]) -> list[int]:
    top, bottom, left, right = padding
    return [top, left, bottom, right]


@add.register
def _(operation: Conv, b: Builder) -> str:
    inputs = [b.read(operation.inputs[0]), *_weights(operation, b)]
    return b.node(
        "Conv", inputs, f"{operation.output}/float", kernel_shape=list(operation.weight.shape[2:]),
        strides=list(operation.stride), pads=_sides(operation.padding), dilations=list(operation.dilation),
        group=operation.groups,
    )  # fmt: skip


@add.register
def _(operation: ConvTranspose, b: Builder) -> str:
    weight, bias = _weights(operation, b, inputs_first=operation.groups == 1)
    if operation.groups > 1:
        weight = _swapped(operation, weight, b)
    return b.node(
        "ConvTranspose", [b.read(operation.inputs[0]), weight, bias], f"{operation.output}/float",
        kernel_shape=list(operation.weight.shape[2:]), strides=list(operation.stride), pads=[*operation.padding] * 2,
        output_padding=list(operation.output_padding), dilations=list(operation.dilation), group=operation.groups,
    )  # fmt: skip


def _swapped(operation: ConvTranspose, weight: str, b: Builder) -> str:
    """Add what puts the input channels of a grouped weight first: scales of all its channels lie along no axis then."""
    name, groups = f"{operation.output}/weight", operation.groups
    out, inner, *kernel = operation.weight.shape
    by_group = b.constant(f"{name}/groups", np.array([groups, out // groups, inner, *kernel], np.int64))
    split = b.node("Reshape", [weight, by_group], f"{name}/split")
    turned = b.node("Transpose", [split], f"{name}/turned", perm=[0, 2, 1, 3, 4])
    sizes = b.constant(f"{name}/sizes", np.array([groups * inner, out // groups, *kernel], np.int64))
    return b.node("Reshape", [turned, sizes], f"{name}/swapped")


@add.register
def _(operation: Linear, b: Builder) -> str:
    inputs = [b.read(operation.inputs[0]), *_weights(operation, b)]
    return b.node("Gemm", inputs, f"{operation.output}/float", transB=1)


@add.register
def _(operation: Add, b: Builder) -> str:
    return _simple(operation, b, "Add")


@add.register
def _(operation: Multiply, b: Builder) -> str:
    return _simple(operation, b, "Mul")


@add.register
def _(operation: Sigmoid, b: Builder) -> str:
    return _simple(operation, b, "Sigmoid")


@add.register
def _(operation: HardSwish, b: Builder) -> str:
    return _simple(operation, b, "HardSwish")


@add.register
def _(operation: Concat, b: Builder) -> str:
    return _simple(operation, b, "Concat", axis=1)


@add.register
def _(operation: Requantize, b: Builder) -> str:
    return b.read(operation.inputs[0])


@add.register
def _(operation: Clip, b: Builder) -> str:
    return b.read(operation.inputs[0])


@add.register
def _(operation: Reshape, b: Builder) -> str:
    if len(b.graph.tensors[operation.output].shape) == 1:
        return _simple(operation, b, "Flatten", axis=1)
    shape = b.constant(f"{operation.output}/shape", np.array([0, *b.graph.tensors[operation.output].shape], np.int64))
    return b.node("Reshape", [b.read(operation.inputs[0]), shape], f"{operation.output}/float")


@add.register
def _(operation: AveragePool, b: Builder) -> str:
    if operation.kernel == b.graph.tensors[operation.inputs[0]].shape[1:]:
        return _simple(operation, b, "GlobalAveragePool")
    return _simple(operation, b, "AveragePool", kernel_shape=list(operation.kernel), strides=list(operation.stride))


@add.register
def _(operation: MaxPool, b: Builder) -> str:
    return _simple(
        operation, b, "MaxPool", kernel_shape=list(operation.kernel), strides=list(operation.stride),
        pads=_sides(operation.padding),
    )  # fmt: skip


@add.register
def _(operation: Pad, b: Builder) -> str:
    top, bottom, left, right = operation.padding
    pads = b.constant(f"{operation.output}/pads", np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
    return b.node("Pad", [b.read(operation.inputs[0]), pads], f"{operation.output}/float")


@add.register
def _(operation: MoreChannels, b: Builder) -> str:
    before, after = (b.graph.tensors[name].shape[0] for name in (*operation.inputs, operation.output))
    pads = b.constant(f"{operation.output}/pads", np.array([0, 0, 0, 0, 0, after - before, 0, 0], np.int64))
    return b.node("Pad", [b.read(operation.inputs[0]), pads], f"{operation.output}/float")
