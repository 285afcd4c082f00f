"""Walk the nodes of an exported program and make the graph of their kernels.

A convolution, sum or other rescaling operation has no output until the walk knows its grid: it is *pending*. A batch
norm behind it is folded into it, an activation function becomes its bounds, operations that only move values wait
beside it, and the marker of an activation quantizer ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import fx
from torch.multiprocessing.reductions import StorageWeakRef

from lightning_compress.export.integer.fit_weights import integer_weights
from lightning_compress.export.integer.graph import Array, Bounds, Graph, Grid, Operation, Requantize, Tensor, Weighted
from lightning_compress.export.integer.marked import Levels, NoIntegerFormError, UnquantizedError

MARKER = torch.ops.lightning_compress.grid.default


@dataclass(frozen=True)
class Pending:
    """An operation whose output has no grid yet.

    Attributes:
        core: the operation; a weight is still as float64 values or int16 levels, a bias float64.
        shape: of the output of ``core``.
        serial: equal for copies of one operation.
        after: operations that move its values, each with the shape of its output.
        parts: of a concatenation, what it reads.
    """

    core: Operation
    shape: tuple[int, ...]
    serial: int
    after: tuple[tuple[Operation, tuple[int, ...]], ...] = ()
    parts: tuple[Pending | str, ...] = ()

    @property
    def bounds(self) -> Bounds | None:
        """The bounds of the activation function behind the operation; None where it can have none."""
        return getattr(self.core, "bounds", None)


Value = Pending | str


class Walker:
    """Builds a :class:`Graph` from the nodes of an exported program.

    Args:
        kernels: aten operation -> what gives its value.
        levels: layer -> quantized weight; empty for a graph in floating point.
        integer: whether every tensor must be on a grid.
    """

    def __init__(self, kernels: Mapping[Any, Callable[..., Value]], levels: dict[str, Levels], integer: bool) -> None:
        self.kernels, self.levels, self.integer = kernels, levels, integer
        self.constants: dict[fx.Node, Array] = {}
        self.parameters: dict[fx.Node, str] = {}
        self.values: dict[fx.Node, Value] = {}
        self.ended: dict[tuple[int, Bounds | None, Grid | None], str] = {}
        self.graph = Graph("")
        self.count = 0

    def run(self, program: torch.export.ExportedProgram) -> Graph:
        """Return the graph of a program.

        Raises:
            NoIntegerFormError: an operation has no kernel, or reads a tensor that is on no grid.
        """
        self._read_constants(program)
        for node in program.graph.nodes:
            if node in self.constants or node in self.values or node.op in ("placeholder", "output"):
                continue
            if node.target is MARKER:
                self.values[node] = self._mark(node)
                continue
            if node.target not in self.kernels:
                raise NoIntegerFormError(
                    f"export: operation {name_of(node)!r} in module {module_of(node)!r} has no kernel in this format"
                )
            self.values[node] = self.kernels[node.target](self, node, *node.args, **node.kwargs)
            if name_of(node).endswith("_"):
                self._write_in_place(node)
        outputs = program.graph.output_node().args[0]
        if len(outputs) != 1:
            raise NoIntegerFormError(f"export: the network has {len(outputs)} outputs, and one is supported here")
        self.graph.output = self.read(outputs[0], program.graph.output_node())
        return self.graph

    def _write_in_place(self, node: fx.Node) -> None:
        """Let who reads the input of an operation in place later, or the same tensor by another node, read its output.

        Raises:
            NoIntegerFormError: a view of it in another shape is read later.
        """
        memory, shape = _memory(node.args[0]), shape_of(node)
        for other in [other for other in self.values if _memory(other) == memory]:
            if shape_of(other) == shape:
                self.values[other] = self.values[node]
            elif any(user not in self.values for user in other.users):
                raise refuse(
                    node, f"it changes a tensor in place that is read later in the shape {shape_of(other)}; use "
                    f"inplace=False"
                )  # fmt: skip

    def _read_constants(self, program: torch.export.ExportedProgram) -> None:
        signature = program.graph_signature
        stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        stored |= signature.inputs_to_lifted_tensor_constants
        inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
        for node in inputs:
            if node.name in stored:
                name = stored[node.name]
                tensor = program.state_dict[name] if name in program.state_dict else program.constants[name]
                self.constants[node] = tensor.detach().double().cpu().numpy()
                self.parameters[node] = name
        given = [node for node in inputs if node not in self.constants]
        if len(given) != 1:
            raise NoIntegerFormError(f"export: the network has {len(given)} inputs, and one is supported here")
        self.values[given[0]] = self.add_tensor("input", shape_of(given[0]), None)
        self.graph.input = "input"

    def pend(self, core: Operation, shape: tuple[int, ...], parts: tuple[Value, ...] = ()) -> Pending:
        """Return a new operation that waits for its grid."""
        self.count += 1
        return Pending(core, shape, self.count, (), parts)

    def add_tensor(self, name: str, shape: tuple[int, ...], grid: Grid | None) -> str:
        """Add a tensor under a name that is not taken yet, and return the name."""
        base, number = name or "network", 1
        name = base
        while name in self.graph.tensors:
            number += 1
            name = f"{base}:{number}"
        self.graph.tensors[name] = Tensor(name, shape, grid)
        return name

    def emit(self, operation: Operation, shape: tuple[int, ...], grid: Grid | None) -> str:
        """Add an operation and its output tensor; return the tensor's name."""
        name = self.add_tensor(f"{operation.module or 'network'}", shape, grid)
        self.graph.operations.append(replace(operation, output=name))
        return name

    def move(self, node: fx.Node, source: fx.Node, operation: Operation) -> Value:
        """Return the value of an operation that keeps the grid of what it reads."""
        value, shape = self.values[source], shape_of(node)
        if isinstance(value, Pending) and self.integer:
            return replace(value, after=(*value.after, (operation, shape)))
        name = value if isinstance(value, str) else self.read(source, node)  # the input may get its grid behind it
        return self.emit(replace(operation, inputs=(name,)), shape, self.graph.tensors[name].grid)

    def read(self, source: fx.Node, node: fx.Node) -> str:
        """Return the tensor that a node reads.

        Raises:
            NoIntegerFormError: it is on no grid.
        """
        value = self.values[source]
        if isinstance(value, Pending):
            if self.integer:
                raise self._unquantized(node)
            value = self.values[source] = self._end(value, None)
        if self.integer and self.graph.tensors[value].grid is None:
            raise self._unquantized(node)
        return value

    def _unquantized(self, node: fx.Node) -> UnquantizedError:
        what = "the output of the network" if node.op == "output" else f"what module {module_of(node)!r} reads"
        return UnquantizedError(
            f"export: {what} ({name_of(node)}) is not quantized; train with the placement Tensors, or pass "
            f"calibration= to set the missing grids from data"
        )

    def _mark(self, node: fx.Node) -> Value:
        source, scale, low, high = cast(tuple[fx.Node, float, int, int], node.args)
        value, grid = self.values[source], Grid(scale, low, high)
        if isinstance(value, Pending):
            return self._end(value, grid)
        tensor = self.graph.tensors[value]
        if tensor.grid == grid:
            return value
        if tensor.grid is None:
            self._put_input_on(grid, value)
            return value
        return self.requantize(value, grid, module_of(node))

    def _put_input_on(self, grid: Grid, name: str) -> None:
        """Give a grid to the input of the network and what only moves its values, from the last of these on."""
        made_by = {operation.output: operation for operation in self.graph.operations}
        while self.graph.tensors[name].grid is None:
            self.graph.tensors[name] = replace(self.graph.tensors[name], grid=grid)
            if name in made_by:
                (name,) = made_by[name].inputs

    def requantize(self, name: str, grid: Grid | None, module: str) -> str:
        """Return a tensor on another grid; itself where that is its own."""
        tensor = self.graph.tensors[name]
        return name if tensor.grid == grid else self.emit(Requantize(module, (name,), ""), tensor.shape, grid)

    def _end(self, pending: Pending, grid: Grid | None) -> str:
        key = pending.serial, pending.bounds, grid
        if key not in self.ended:
            core = pending.core
            if pending.parts:
                core = replace(core, inputs=tuple(self._part(part, grid, core.module) for part in pending.parts))
            elif isinstance(core, Weighted):
                core = self._with_integers(core) if self.integer else _in_float32(core)
            self.ended[key] = self.emit(core, pending.shape, grid)
        name = self.ended[key]
        for operation, shape in pending.after:
            name = self.emit(replace(operation, inputs=(name,)), shape, grid)
        return name

    def _part(self, part: Value, grid: Grid | None, module: str) -> str:
        return self._end(part, grid) if isinstance(part, Pending) else self.requantize(part, grid, module)

    def _with_integers(self, core: Weighted) -> Weighted:
        input_scale = self.graph.grid(core.inputs[0]).scale
        core, notes = integer_weights(core, input_scale)
        self.graph.notes += notes
        return core


def _in_float32(core: Weighted) -> Weighted:
    return replace(core, weight=core.weight.astype(np.float32), bias=core.bias.astype(np.float32))


def _memory(node: Any) -> int | None:
    """Return what is equal for nodes whose values share memory; None where the value is no tensor."""
    value = node.meta.get("val")
    return StorageWeakRef(value.untyped_storage()).cdata if isinstance(value, torch.Tensor) else None


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's value for one sample."""
    return tuple(int(n) for n in node.meta["val"].shape[1:])


def module_of(node: fx.Node) -> str:
    """Return the name of the innermost module that a node comes from."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [name for name, _ in stack.values()]
    return names[-1].removesuffix(".input_transform").removesuffix(".output_transform") if names else ""


def name_of(node: fx.Node) -> str:
    """Return the name of a node's operation, such as ``conv2d``."""
    return str(node.target).removeprefix("aten.").partition(".")[0]


def refuse(node: fx.Node, why: str) -> NoIntegerFormError:
    """Return the error for a node whose operation has a kernel, but not with these arguments."""
    place = f"operation {name_of(node)!r} in module {module_of(node)!r}"
    return NoIntegerFormError(f"export: {place} has no kernel here: {why}")


def pair(values: int | Sequence[int]) -> tuple[int, int]:
    """Return a value for height and one for width."""
    values = [values] if isinstance(values, int) else list(values)
    return (values[0], values[-1])
