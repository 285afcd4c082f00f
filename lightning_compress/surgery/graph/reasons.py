"""Say in words why channels of a layer stay."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.modes import Mode, layers_run, modes_of

OUTPUT = "its output channels are the output of the network"
SHORTCUT = (
    "it is added to a zero-padded shortcut (option A), whose padding has a fixed number of channels; use a shortcut "
    "with a 1x1 convolution to prune it"
)


def unfollowed(part: str) -> str:
    """Return why nothing is known of the channels inside a part of a network.

    Args:
        part: its name; "" for the network.
    """
    where = f"{part!r}" if part else "the network"
    return f"its channels cannot be followed through {where}, which rearranges its tensors"


def not_called(net: nn.Module, name: str, example: Any) -> str:
    """Return why a layer is not called in evaluation: it runs in training only, its weight is read, or it never ran.

    Args:
        net: is left as it is.
        name: of the layer.
        example: one input batch.
    """
    probe = clone(net)
    modes = modes_of(probe, example)
    if any(layers_run(probe, example, mode)[name] for mode in modes[1:]):
        return "it runs in training mode alone"
    if _reads_weight(probe, name, example, modes[0]):
        return "it is not called: something else reads its weight, as attention does"
    return "it never ran on the example input"


class _Watched(TorchFunctionMode):
    """Notes whether an operation reads a tensor, and which channels are padded with zeros."""

    def __init__(self, tensor: Tensor | None = None) -> None:
        super().__init__()
        self.tensor, self.read, self.pads = tensor, False, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.read |= any(leaf is self.tensor for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        if func is F.pad:
            given = {**dict(zip(("input", "pad"), args, strict=False)), **kwargs}
            dims, pad = given["input"].dim(), tuple(given["pad"])
            self.pads |= dims > 2 and any(pad[2 * (dims - 2) : 2 * (dims - 1)])
        return func(*args, **kwargs)


def _reads_weight(net: nn.Module, name: str, example: Any, mode: Mode) -> bool:
    watched = _Watched(dict(net.get_submodule(name).named_parameters()).get("weight"))
    with torch.no_grad(), watched:
        mode(net, example)
    return watched.read


def pads_channels(net: nn.Module, example: Any, mode: Mode) -> bool:
    """Return whether a network adds channels of zeros to a tensor, as shortcuts of option A do.

    Args:
        net: is run: pass a copy.
        example: one input batch.
        mode: in which it is run.
    """
    watched = _Watched()
    with torch.no_grad(), watched:
        mode(net, example)
    return watched.pads


def watch_calls(net: nn.Module) -> list[str]:
    """Return a list that holds the names of the modules that are running, the innermost last.

    After a forward pass that raised, its last entry is where; an empty list means the network itself.

    Args:
        net: gets hooks: pass a copy.
    """
    inside: list[str] = []

    def left(*_: Any) -> None:
        inside.pop()

    for name, module in net.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: inside.append(name))
        module.register_forward_hook(left)
    return inside


def breaks_in(module: nn.Module, name: str, where: str) -> str:
    """Return what a forward pass that fails in a module without some channels says of them.

    Args:
        module: the innermost that failed.
        name: of it.
        where: the mode, in words.
    """
    kind = type(module).__name__
    place = f"{name!r} ({kind})" if name else f"the forward of {kind}"
    return f"{place} expects all its channels{where}, by a fixed size, split or reshape there or before it"
