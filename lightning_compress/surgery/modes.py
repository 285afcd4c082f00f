"""Run a network as it runs in evaluation and in training, so that what is done to it holds in both.

Auxiliary heads, deep supervision and contrastive heads run in training only. Training mode is entered without dropout:
how many random numbers that draws depends on the width of a layer, so two widths could not be compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lightning_compress.surgery import measure
from lightning_compress.surgery.tensors import map_tensors, operands, tensors_in

Mode = Callable[[nn.Module, Any], Any]  # (network, example) -> output; leaves the network in that mode
RANDOM = frozenset((
    "bernoulli", "binomial", "cauchy", "exponential", "geometric", "log_normal", "multinomial", "normal", "poisson",
    "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "random", "randperm", "rrelu", "uniform",
))  # fmt: skip
TRANSPOSING = frozenset((
    "adjoint", "as_strided", "einsum", "moveaxis", "movedim", "permute", "swapaxes", "swapdims", "t", "transpose",
))  # fmt: skip
TRANSPOSED = tuple(getattr(Tensor, name).__get__ for name in ("T", "mT", "H", "mH"))
SEQUENCE = 3  # dimensions of a batch of sequences
DROPOUT = (
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout,
)  # fmt: skip


class without_dropout(TorchFunctionMode):
    """Let dropout return its input, in a ``with`` block."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in DROPOUT:
            return args[0] if args else kwargs["input"]
        if func is F.multi_head_attention_forward:
            kwargs = {**kwargs, "training": False}
        if func is F.scaled_dot_product_attention and "dropout_p" in kwargs:
            kwargs = {**kwargs, "dropout_p": 0.0}
        return func(*args, **kwargs)


def evaluation(net: nn.Module, example: Any) -> Any:
    """Call ``net(example)`` in eval mode."""
    return measure.forward(net.eval(), example)


def training(net: nn.Module, example: Any) -> Any:
    """Call ``net(example)`` in training mode without dropout; a single sample is doubled for batch norms."""
    with without_dropout():
        return measure.forward(net.train(), map_tensors(_doubled, example))


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _doubled(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor]) if tensor.dim() and len(tensor) == 1 else tensor


@dataclass
class Recorded:
    """The operations of a network in a mode.

    Attributes:
        layers: how often each sub-module runs.
        operations: functions of torch in turn, with the operations whose results they read; then those that the
            outputs come from. Of norms only that they run, and no dropout: what these do in training is known.
        draws: whether random numbers are drawn.
        outputs: shapes of the tensors that the network returns.
        read: names of the parameters that operations read.
        transposes: whether the dimensions of a tensor are exchanged.
        sequences: names of the modules that take one tensor of three dimensions, and give one of its shape.
    """

    layers: Counter[str] = field(default_factory=Counter)
    operations: list[object] = field(default_factory=list)
    draws: bool = False
    outputs: list[torch.Size] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    transposes: bool = False
    sequences: set[str] = field(default_factory=set)

    @property
    def may_mix_tokens(self) -> set[str]:
        """Names of the modules that may work on transposed sequences."""
        return self.sequences if self.transposes else set()


class _Recording(TorchFunctionMode):
    """Notes operations while none of the norms runs, and from which of them tensors come."""

    def __init__(self, net: nn.Module, record: Recorded) -> None:
        super().__init__()
        self.record, self.norms = record, 0
        self.parameters = {id(parameter): name for name, parameter in net.named_parameters(remove_duplicate=False)}
        self.sources: dict[int, object] = {}
        self.alive: list[Tensor] = []  # so that ids stay unique

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.record.read |= {
            self.parameters[id(leaf)] for leaf in operands((args, kwargs)) if id(leaf) in self.parameters
        }
        name = getattr(func, "__name__", "").rstrip("_")
        self.record.draws |= name in RANDOM
        self.record.transposes |= name in TRANSPOSING or func in TRANSPOSED
        gives = result is None or any(isinstance(leaf, Tensor) for leaf in operands(result))
        if func in DROPOUT:
            self._name(result, self.outline(args[0] if args else (kwargs or {})["input"]))
        elif gives and not self.norms:
            self.note(func, (args, kwargs or {}), result)
        return result

    def note(self, what: object, read: Any, given: Any) -> None:
        """Note an operation with what it reads and gives."""
        shapes = [leaf.shape for leaf in operands(given) if isinstance(leaf, Tensor)]
        self.record.operations.append((what, [self.outline(leaf) for leaf in operands(read)], shapes))
        self._name(given, len(self.record.operations))

    def outline(self, leaf: Any) -> object:
        """Return the operation that a tensor comes from, or its shape; the text of what is no tensor."""
        return self.sources.get(id(leaf), leaf.shape) if isinstance(leaf, Tensor) else repr(leaf)

    def _name(self, given: Any, source: object) -> None:
        for number, leaf in enumerate(leaf for leaf in operands(given) if isinstance(leaf, Tensor)):
            self.sources[id(leaf)] = source if number == 0 else (source, number)
            self.alive.append(leaf)


def recorded(net: nn.Module, example: Any) -> dict[Mode, Recorded]:
    """Return the modes that a network runs in, with what it does in them; a single sample is doubled in all.

    Training is left out where it fails, as of a network that asks for targets.

    Args:
        net: is run, and its running statistics move: pass a copy.
        example: one input batch.
    """
    found: dict[Mode, Recorded] = {evaluation: _record(net, example, evaluation)}
    with suppress(Exception):  # whatever the network's own forward raises
        found[training] = _record(net, example, training)
    return found


def modes_of(net: nn.Module, example: Any) -> list[Mode]:
    """Return the modes that a network runs in. Arguments as for :func:`recorded`."""
    return list(recorded(net, example))


def _record(net: nn.Module, example: Any, mode: Mode) -> Recorded:
    found = Recorded()
    recording = _Recording(net, found)

    def enter(*_: Any) -> None:
        recording.norms += 1

    def leave(name: str, module: nn.Module) -> Any:
        def hook(_module: nn.Module, args: Any, output: Any) -> None:
            found.layers[name] += 1
            if len(args) == 1 and _shape(args[0]) == _shape(output) and len(_shape(output)) == SEQUENCE:
                found.sequences.add(name)
            if isinstance(module, measure.NORM):
                recording.norms -= 1
                recording.note(name, args, output)

        return hook

    handles = [m.register_forward_pre_hook(enter) for m in net.modules() if isinstance(m, measure.NORM)]
    handles += [m.register_forward_hook(leave(n, m)) for n, m in net.named_modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), recording:
            output = mode(net, map_tensors(_doubled, example))
    finally:
        for handle in handles:
            handle.remove()
    found.operations.append([recording.outline(leaf) for leaf in tree_leaves(output)])
    found.outputs = [tensor.shape for tensor in tensors_in(output)]
    return found
