"""Group the tensors that share a quantization grid: only operations that do not rescale lie between them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from lightning_compress.core.errors import CompressError
from lightning_compress.surgery.graph.dataflow import Dataflow, Operation, Site

LAYERS = frozenset({"conv1d", "conv2d", "conv3d", "linear", "conv_transpose2d"})
COPIES = frozenset({"contiguous", "clone", "detach", "to", "float", "dropout", "dropout2d"})  # give what they read
# Integer kernels of these give numbers on the grid of what they read.
MOVES = COPIES | {
    "flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "getitem", "chunk", "split", "pad",
    "max_pool1d", "max_pool2d", "max_pool2d_with_indices", "adaptive_max_pool2d", "channel_shuffle", "pixel_shuffle",
    "interpolate", "expand", "stochastic_depth", "boolean_dispatch",
}  # fmt: skip
AVERAGES = frozenset({"avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean"})
JOINS = frozenset({"cat", "concat", "concatenate"})
# Part of the operation before them, whose output is not needed as a tensor of its own.
FUSED = frozenset({"batch_norm", "relu", "relu6", "hardtanh", "clamp", "clip"})

Fuses = Callable[[Dataflow, Operation], Collection[int]]


@dataclass
class SharedGrid:
    """Tensors that are quantized on one grid.

    Attributes:
        layers: whose input is one of them.
        tensors: numbers of those that must be quantized where they are made.
    """

    layers: list[str] = field(default_factory=list)
    tensors: list[int] = field(default_factory=list)


def shared_grids(flow: Dataflow, layers: Collection[str], unquantized: Fuses) -> list[SharedGrid]:
    """Return the grids of a network, in the order in which their tensors are made.

    Args:
        flow: of the network.
        layers: whose inputs are quantized.
        unquantized: ``(flow, sum) -> tensors`` that the kernel of a sum reads unquantized.
    """
    roots = _Roots(flow)
    found: dict[int, SharedGrid] = {}
    for operation in flow.operations:
        for value in operation.reads:
            root = roots.find(value)
            if operation.name in LAYERS:
                if operation.module in layers:
                    found.setdefault(root, SharedGrid()).layers.append(operation.module)
                continue
            if operation.name == "add" and value in unquantized(flow, operation):
                continue
            apart = operation.name not in FUSED or (operation.name == "batch_norm" and not _folds(flow, operation))
            if operation.name in AVERAGES or (roots.rescales(operation) and apart):
                found.setdefault(root, SharedGrid()).tensors.append(roots.made(value))
    for value in flow.outputs:
        found.setdefault(roots.find(value), SharedGrid()).tensors.append(roots.made(value))
    for grid in found.values():
        grid.layers, grid.tensors = list(dict.fromkeys(grid.layers)), list(dict.fromkeys(grid.tensors))
    return [found[root] for root in sorted(found)]


def site_of(flow: Dataflow, tensor: int) -> Site:
    """Return where a quantizer reaches a tensor.

    Raises:
        CompressError: no module that runs once has it as input or output.
    """
    site = flow.site(tensor)
    if site is None:
        operation = flow.writer(tensor)
        made, remedy = "the input of the network", "let it pass an nn.Identity() of its own, first in forward"
        if operation is not None:
            made = f"the tensor that {operation.name!r} in module {operation.module!r} returns"
            remedy = "wrap the operation in a module (nn.ReLU rather than F.relu)"
        raise CompressError(
            f"quantization: {made} feeds a sum, a concatenation or the output and must be quantized, but no module "
            f"that runs once has it as its input or output; {remedy}, or use the placement LayerInputs"
        )
    return site


def _folds(flow: Dataflow, norm: Operation) -> bool:
    """Return whether a batch norm becomes a part of the layer before it; else it is a kernel of its own."""
    value = norm.reads[0]
    while value not in flow.outputs and len(flow.readers(value)) == 1:
        writer = flow.writer(value)
        if writer is None or writer.name in LAYERS or writer.name == "batch_norm":
            return writer is not None
        if writer.name not in COPIES:
            return False
        value = writer.reads[0]
    return False


class _Roots:
    """Maps each tensor to the one that a rescaling operation made and others only moved; joined where kernels join."""

    def __init__(self, flow: Dataflow) -> None:
        self.flow = flow
        self.source: dict[int, int] = {}  # a moved tensor -> what it was moved from
        self.parent: dict[int, int] = {}  # union-find over tensors that share a grid
        read_by: dict[str, int] = {}
        for operation in flow.operations:
            moved = operation.reads and not self.rescales(operation)
            for written in operation.writes:
                if moved and operation.name in JOINS:
                    for value in operation.reads:
                        self._join(value, written)
                elif moved:
                    self.source[written] = operation.reads[0]
            if operation.name in LAYERS and operation.reads:
                self._join(read_by.setdefault(operation.module, operation.reads[0]), operation.reads[0])

    def rescales(self, operation: Operation) -> bool:
        """Return whether the output of an operation has a grid of its own."""
        if operation.name in MOVES | AVERAGES | JOINS:
            return False
        return operation.name not in FUSED or not self._lone(operation)

    def made(self, value: int) -> int:
        """Return the tensor that a rescaling operation or a join made, and of which ``value`` is a moved form."""
        while value in self.source:
            value = self.source[value]
        return value

    def find(self, value: int) -> int:
        """Return the smallest number among the tensors that share a grid with this one."""
        value = self.made(value)
        while self.parent.get(value, value) != value:
            value = self.made(self.parent[value])
        return value

    def _lone(self, operation: Operation) -> bool:
        """Return whether an activation function reads a tensor that others read too, or that nothing rescaled."""
        if operation.name == "batch_norm":
            return False
        value = operation.reads[0]
        writer = self.flow.writer(value)
        shared = len(self.flow.readers(value)) > 1 or value in self.flow.outputs
        return shared or writer is None or not self.rescales(writer)

    def _join(self, a: int, b: int) -> None:
        a, b = sorted((self.find(a), self.find(b)))
        self.parent[b] = a
