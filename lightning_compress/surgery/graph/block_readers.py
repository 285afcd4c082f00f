"""Find the layers that read the output of a block or layer, in one forward pass.

A layer reads a tensor itself, or what was made of it by an operation that has no weights of a convolution or linear
layer: an activation, a norm, a pooling, a flattening, and a sum or concatenation with others. So in a residual network
all layers up to the next weighted shortcut read a block: behind a block of a ResNet these are the first convolutions of
the later blocks of its stage, and the first convolution and the shortcut of the next stage, or the head.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_compress.surgery import measure
from lightning_compress.surgery.tensors import tensors_in


class _Sources(TorchFunctionMode):
    """Notes the parts that each tensor of a forward pass comes from; all are kept alive, so that ids stay unique."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[int, frozenset[str]] = {}
        self.alive: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.set(result, self.get((args, kwargs)))
        return result

    def get(self, tensors: Any) -> frozenset[str]:
        """Return the parts that any of some tensors comes from."""
        return frozenset().union(*(self.of.get(id(t), ()) for t in tensors_in(tensors)))

    def set(self, tensors: Any, sources: frozenset[str]) -> None:
        for tensor in tensors_in(tensors):
            self.of[id(tensor)] = sources
            self.alive.append(tensor)


def find_readers(net: nn.Module, example: Any, names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return part -> the conv and linear layers that read its output, in the order in which they run.

    Args:
        net: it is only run.
        example: one input batch.
        names: of blocks and layers.
    """
    sources = _Sources()
    found: dict[str, list[str]] = {name: [] for name in names}

    def reads(layer: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            for part in sources.get(args):
                found[part].append(layer)

        return hook

    def gives(name: str, weighted: bool) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            own = frozenset({name} if name in found else ())
            sources.set(output, own if weighted else own | sources.get(output))  # a block's sum passes others on

        return hook

    handles = []
    for name, module in net.named_modules():
        weighted = isinstance(module, (*measure.CONV, *measure.LINEAR))
        if weighted:
            handles.append(module.register_forward_pre_hook(reads(name)))
        if weighted or name in found:
            handles.append(module.register_forward_hook(gives(name, weighted)))
    with sources:
        measure.forward_hooked(net, example, handles)
    return {name: tuple(layers) for name, layers in found.items()}
