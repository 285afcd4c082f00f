"""Collect the nodes and constants of an ONNX model. The only file that knows the ``onnx`` package."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_compress.core.errors import CompressError
from lightning_compress.export.integer.graph import UNBOUNDED, Bounds, Graph, Requantize
from lightning_compress.export.integer.rounding.zero_point import unsigned_zero_point

OPSET, IR_VERSION = 21, 10
PAD_BYTES = 160  # of a node and its constant


def onnx_package() -> Any:
    """Return the ``onnx`` package.

    Raises:
        CompressError: it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise CompressError(
            'export: .onnx files need the package onnx; install it with pip install "lightning-compress[onnx]"'
        ) from error
    return onnx


class Builder:
    """A model whose tensors on grids are float values between a DequantizeLinear and a QuantizeLinear node.

    Attributes:
        graph: what is written.
    """

    def __init__(self, graph: Graph) -> None:
        self.onnx = onnx_package()
        self.graph = graph
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node, and return its output."""
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        """Add a constant once, and return its name."""
        if name not in self.constants:
            self.constants[name] = self.onnx.numpy_helper.from_array(np.array(value, order="C"), name)
        return name

    def dequantized(self, name: str, levels: np.ndarray, scale: np.ndarray, axis: int = 0) -> str:
        """Add a weight or bias as integers with a scale per output channel, and return its float name.

        Args:
            name: of the float values.
            levels: int8 or int32.
            scale: one per output channel.
            axis: of ``levels`` along which the output channels lie.
        """
        zeros = self.constant(f"{name}/zero", np.zeros(len(scale), levels.dtype))
        inputs = [
            self.padded(f"{name}/levels", levels),
            self.constant(f"{name}/scale", scale.astype(np.float32)),
            zeros,
        ]
        return self.node("DequantizeLinear", inputs, name, axis=axis)

    def padded(self, name: str, levels: np.ndarray) -> str:
        """Add integers; zeros at the ends of the first two axes are left to a node that runs when a file is loaded."""
        ends = [_end(levels, axis) for axis in range(min(levels.ndim, 2))]
        kept = levels[tuple(slice(end) for end in ends)]
        if kept.nbytes > levels.nbytes - PAD_BYTES:
            return self.constant(name, levels)
        more = [full - own for full, own in zip(levels.shape, kept.shape, strict=True)]
        pads = self.constant(f"pads/{more}", np.array([0] * len(more) + more, np.int64))
        return self.node("Pad", [self.constant(f"{name}/kept", kept), pads], name)

    def put(self, tensor: str, value: str, bounds: Bounds = UNBOUNDED) -> None:
        """Quantize a float value where the tensor is on a grid; ``read`` gives it to the operations behind.

        Args:
            tensor: of the graph.
            value: name of its float value.
            bounds: of an activation function, which clips the integers: a node before them would keep ONNX Runtime
                from using integer kernels.
        """
        grid = self.graph.tensors[tensor].grid
        if grid is None:
            self.node("Identity", [self.clipped(value, bounds)], tensor)
            return
        zero = unsigned_zero_point(grid)  # all activations are uint8: kernels of sums take one type
        scale = self.constant(f"{tensor}/scale", np.float32(grid.scale))
        point = self.constant(f"{tensor}/zero", np.uint8(zero))
        stored = self.node("QuantizeLinear", [value, scale, point], f"{tensor}/stored")
        limits = tuple(level + zero for level in grid.limits(bounds))
        if limits != (0, 255) or self._is_only_requantized(tensor):
            ends = [self.constant(f"uint8/{level}", np.uint8(level)) for level in limits]
            stored = self.node("Clip", [stored, *ends], f"{tensor}/clipped")
        self.node("DequantizeLinear", [stored, scale, point], f"{tensor}/value")

    def _is_only_requantized(self, tensor: str) -> bool:
        """Return whether a tensor is read by one operation, which puts it on another grid.

        Two pairs of nodes in a row become one in ONNX Runtime, whose scale the bias of the layer behind does not get;
        a node between them keeps both.
        """
        readers = self.graph.readers(tensor)
        return len(readers) == 1 and isinstance(readers[0], Requantize)

    def clipped(self, value: str, bounds: Bounds) -> str:
        """Return the name of a float value after an activation function with these bounds."""
        if bounds == UNBOUNDED:
            return value
        if bounds == (0.0, None):
            return self.node("Relu", [value], f"{value}/relu")
        ends = [self.constant(f"float/{end:g}", np.float32(end)) for end in bounds]
        return self.node("Clip", [value, *ends], f"{value}/clip")

    def read(self, tensor: str) -> str:
        """Return the name of a tensor's float value."""
        return tensor if self.graph.tensors[tensor].grid is None else f"{tensor}/value"

    def opsets(self) -> list[Any]:
        """Return the sets of operators that the model uses."""
        return [self.onnx.helper.make_opsetid("", OPSET)]

    def bytes(self) -> bytes:
        """Return the file: input and output are float32, the batch is free."""
        helper, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        graph = self.graph
        self.node("Identity", [self.read(graph.output)], "output")
        inputs = [helper.make_tensor_value_info("x", kind, ["batch", *graph.tensors[graph.input].shape])]
        outputs = [helper.make_tensor_value_info("output", kind, ["batch", *graph.tensors[graph.output].shape])]
        made = helper.make_graph(self.nodes, "main", inputs, outputs, list(self.constants.values()))
        model = helper.make_model(made, opset_imports=self.opsets(), ir_version=IR_VERSION)
        model.producer_name = "lightning-compress"
        self.onnx.checker.check_model(model)
        return model.SerializeToString(deterministic=True)


def _end(levels: np.ndarray, axis: int) -> int:
    """Return behind which index an axis has zeros alone; at least 1."""
    rest = tuple(i for i in range(levels.ndim) if i != axis)
    return max(int(np.flatnonzero(levels.any(axis=rest)).max(initial=0)) + 1, 1)
