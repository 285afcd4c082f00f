"""Collect the tensors, buffers and operators of a TFLite model."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_compress.export.integer.graph import ConvTranspose, Graph, Grid, Tensor
from lightning_compress.export.integer.rounding.zero_point import zero_point
from lightning_compress.export.tflite.flatbuffer import buffer_of, schema, to_bytes

SCHEMA_VERSION = 3
ANY = -1  # as the schema writes a free batch


class Builder:
    """A model with one subgraph, in TFLite's layout (batch, height, width, channels).

    Attributes:
        graph: what is written.
        index: tensor of the graph -> its number in the file.
        flattened: tensor of the graph that was a map, and has the channels last -> (channels, height, width) of it.
        int4: whether weights of 4 or fewer bits are stored two a byte.
        batch: samples that the file takes at a time; one, where an operator holds the shape of its output.
    """

    def __init__(self, graph: Graph, int4: bool) -> None:
        self.s = schema()
        self.graph, self.int4 = graph, int4
        self.index: dict[str, int] = {}
        self.flattened: dict[str, tuple[int, int, int]] = {}
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [buffer_of(None)]
        self.operators: list[Any] = []
        self.batch = 1 if any(isinstance(op, ConvTranspose) for op in graph.operations) else ANY
        self.codes: dict[tuple[int, int], int] = {}
        self.activation(graph.input)

    def activation(self, name: str) -> int:
        """Return the number of an activation, added where it is new."""
        if name not in self.index:
            self.index[name] = self.like(self.graph.tensors[name], name)
        return self.index[name]

    def like(self, tensor: Tensor, name: str, shape: tuple[int, ...] | None = None) -> int:
        """Add an activation with the grid of a tensor of the graph, in its shape or (height, width, channels)."""
        s = self.s
        shape = nhwc(tensor.shape) if shape is None else shape
        kind = s.TensorType.FLOAT32 if tensor.grid is None else s.TensorType.INT8
        return self._add((1, *shape), kind, name, self._quantization(tensor.grid), None, (self.batch, *shape))

    def constant(self, name: str, data: np.ndarray, scale: Any = None, dim: int = 0, int4: bool = False) -> int:
        """Add constant data, with its scales where it is on grids without zero points."""
        types = {"int8": "INT8", "int32": "INT32", "float32": "FLOAT32"}
        kind = getattr(self.s.TensorType, "INT4" if int4 else types[data.dtype.name])
        quantization = self.s.QuantizationParametersT()
        if scale is not None:
            quantization.scale = np.atleast_1d(np.asarray(scale, np.float32))
            quantization.zeroPoint = np.zeros(len(quantization.scale), np.int64)
            quantization.quantizedDimension = dim
        return self._add(data.shape, kind, name, quantization, _nibbles(data) if int4 else data)

    def stored(self, name: str, level: int, grid: Grid) -> int:
        """Add the number that stands for a level, as a constant on its grid."""
        index = self.constant(name, np.array([level + zero_point(grid)], np.int8))
        self.tensors[index].quantization = self._quantization(grid)
        return index

    def operator(self, code: str, version: int, inputs: list[int], output: int, options: Any = None) -> None:
        """Add an operator.

        Args:
            code: name of the builtin operator.
            version: the lowest that serves.
            inputs, output: numbers of tensors.
            options: the schema's options object, whose class names their type.
        """
        s = self.s
        key = (getattr(s.BuiltinOperator, code), version)
        operator = s.OperatorT()
        operator.opcodeIndex = self.codes.setdefault(key, len(self.codes))
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        if options is not None:
            operator.builtinOptionsType = getattr(s.BuiltinOptions, type(options).__name__.removesuffix("T"))
            operator.builtinOptions = options
        self.operators.append(operator)

    def bytes(self, description: str) -> bytes:
        """Return the file."""
        s = self.s
        subgraph, model = s.SubGraphT(), s.ModelT()
        subgraph.name, subgraph.tensors, subgraph.operators = "main", self.tensors, self.operators
        subgraph.inputs = np.array([self.index[self.graph.input]], np.int32)
        subgraph.outputs = np.array([self.index[self.graph.output]], np.int32)
        model.version, model.description = SCHEMA_VERSION, description
        model.operatorCodes = [self._code(code, version) for code, version in self.codes]
        model.subgraphs, model.buffers = [subgraph], self.buffers
        return to_bytes(model)

    def _code(self, code: int, version: int) -> Any:
        found = self.s.OperatorCodeT()
        found.builtinCode, found.deprecatedBuiltinCode, found.version = code, min(code, 127), version
        return found

    def _quantization(self, grid: Grid | None) -> Any:
        found = self.s.QuantizationParametersT()
        if grid is not None:
            found.scale, found.zeroPoint = np.array([grid.scale], np.float32), np.array([zero_point(grid)], np.int64)
        return found

    def _add(
        self, shape: tuple[int, ...], kind: int, name: str, quantization: Any, data: np.ndarray | None,
        signature: tuple[int, ...] | None = None,
    ) -> int:  # fmt: skip
        tensor = self.s.TensorT()
        tensor.shape, tensor.type, tensor.name = np.array(shape, np.int32), kind, name
        tensor.quantization, tensor.buffer = quantization, 0
        if signature is not None:
            tensor.shapeSignature = np.array(signature, np.int32)
        if data is not None:
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer_of(np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)))
        self.tensors.append(tensor)
        return len(self.tensors) - 1


def nhwc(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return (height, width, channels) for (channels, height, width); other shapes as they are."""
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def _nibbles(levels: np.ndarray) -> np.ndarray:
    """Return two levels a byte, the first in the low half."""
    flat = levels.astype(np.uint8).ravel() & 15
    flat = np.append(flat, np.zeros(len(flat) % 2, np.uint8))
    return flat[0::2] | (flat[1::2] << 4)
