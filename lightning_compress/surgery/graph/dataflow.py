"""Dataflow of a network: which operation reads which tensor, and where a hook can change it first.

One forward pass under a ``TorchFunctionMode`` records the operations, and hooks record the modules around them. Tensors
are numbered as in SSA form: an operation that works in place makes a new number for the same tensor object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lightning_compress.surgery import transforms
from lightning_compress.surgery.calibration import calibration_of, store_calibration
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.measure import evaluating, forward
from lightning_compress.surgery.tensors import tensors_in

KEY = "dataflow"


@dataclass(frozen=True)
class Operation:
    """One call of a torch function.

    Attributes:
        name: of the function, without the underscores of in-place and operator forms: ``relu``, ``add``, ``conv2d``.
        reads: numbers of the activations that it reads, in order; parameters and buffers are not among them.
        writes: numbers of the tensors that it returns.
        module: name of the innermost module that was running.
        shapes: of the tensors that it returns.
    """

    name: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    module: str
    shapes: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Call:
    """One call of a module.

    Attributes:
        module: its name.
        reads, writes: number of its first input and of its output; -1 where that is no single tensor.
        first, last: the operations ``first`` to ``last - 1`` run inside.
    """

    module: str
    reads: int
    writes: int
    first: int
    last: int


@dataclass(frozen=True)
class Site:
    """Place where a hook reaches a tensor: the input or the output of a module."""

    module: str
    slot: str


@dataclass
class Dataflow:
    """Operations, module calls and network outputs of one forward pass.

    Attributes:
        operations: in the order in which they ran.
        calls: of modules, in the order in which they ended.
        outputs: numbers of the tensors that the network returns.
    """

    operations: list[Operation] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def readers(self, value: int) -> list[int]:
        """Return the indices of the operations that read a tensor."""
        return [i for i, operation in enumerate(self.operations) if value in operation.reads]

    def writer(self, value: int) -> Operation | None:
        """Return the operation that made a tensor; None for an input of the network."""
        return next((operation for operation in self.operations if value in operation.writes), None)

    def site(self, value: int) -> Site | None:
        """Return a module whose hook changes a tensor before anything reads it, or None.

        Only modules that run once count: a hook cannot tell the calls of the others apart.
        """
        times = Counter(call.module for call in self.calls)
        once = [call for call in self.calls if call.module and times[call.module] == 1]
        made = next((call for call in once if call.writes == value and call.reads != value), None)
        if made is not None and not any(i < made.last for i in self.readers(value)):
            return Site(made.module, transforms.OUTPUT)
        for call in reversed(once):
            inside = all(call.first <= i < call.last for i in self.readers(value))
            if call.reads == value and inside and value not in self.outputs:
                return Site(call.module, transforms.INPUT)
        handed_on = next((call for call in once if call.reads == call.writes == value), None)
        if handed_on is not None and not any(i < handed_on.last for i in self.readers(value)):
            return Site(handed_on.module, transforms.OUTPUT)  # of nn.Identity, which returns what it reads
        return None


def dataflow(net: nn.Module, example: Any) -> Dataflow:
    """Return the dataflow of a network, without the transforms that are attached to it; cached on the network.

    Args:
        net: any module; it is not changed.
        example: one input batch.
    """
    found = calibration_of(net, KEY)
    if found is None:
        found = _traced(transforms.bake(clone(net)), example)
        store_calibration(net, KEY, found)
    return found


def _traced(net: nn.Module, example: Any) -> Dataflow:
    recorder = _Recorder(id(t) for t in (*net.parameters(), *net.buffers()))
    handles = []
    for name, module in net.named_modules():
        handles.append(module.register_forward_pre_hook(recorder.before(name)))
        handles.append(module.register_forward_hook(recorder.after))
    try:
        with evaluating(net), recorder:
            output = forward(net, example)
    finally:
        for handle in handles:
            handle.remove()
    recorder.flow.outputs = [recorder.number(tensor) for tensor in tensors_in(output)]
    return recorder.flow


class _Recorder(TorchFunctionMode):
    def __init__(self, own: Iterable[int]) -> None:
        super().__init__()
        self.own, self.flow, self.count = set(own), Dataflow(), 0
        self.numbers: dict[int, int] = {}
        self.alive: list[Tensor] = []
        self.running: list[tuple[str, int, int]] = []  # name, what it reads, its first operation

    def number(self, tensor: Tensor, fresh: bool = False) -> int:
        if fresh or id(tensor) not in self.numbers:
            self.numbers[id(tensor)] = self.count
            self.alive.append(tensor)  # ids stay unique
            self.count += 1
        return self.numbers[id(tensor)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and id(leaf) not in self.own]
        numbers = tuple(self.number(leaf) for leaf in read)
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and id(leaf) not in self.own]
        if made and self.running:  # else what brings the example to the network, which no hook sees
            module = self.running[-1][0]
            writes = tuple(self.number(leaf, fresh=True) for leaf in made)
            shapes = tuple(tuple(leaf.shape) for leaf in made)
            self.flow.operations.append(Operation(plain_name(func.__name__), numbers, writes, module, shapes))
        return result

    def before(self, name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            reads = self.number(args[0]) if args and isinstance(args[0], Tensor) else -1
            self.running.append((name, reads, len(self.flow.operations)))

        return hook

    def after(self, _module: nn.Module, _args: Any, output: Any) -> None:
        name, reads, first = self.running.pop()
        writes = self.number(output) if isinstance(output, Tensor) else -1
        self.flow.calls.append(Call(name, reads, writes, first, len(self.flow.operations)))


def plain_name(name: str) -> str:
    """Return the name of a function whatever its form: ``add`` for ``add_``, ``__iadd__`` and ``__radd__``.

    Args:
        name: as torch has it.
    """
    name = name.strip("_")
    return name[1:] if name in ("iadd", "radd", "imul", "rmul") else name
