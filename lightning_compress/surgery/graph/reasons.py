"""Say in words why channels of a layer stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from traceback import walk_tb
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.modes import Mode, Recorded, evaluation, recorded, training

OUTPUT = "its output channels are the output of the network"
NEVER = "it never ran on the example input"
UNTRAINED = f"{NEVER}, on which training mode fails"
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


def not_called(net: nn.Module, layers: Sequence[str], example: Any) -> dict[str, str]:
    """Return layer -> why it computes nothing in evaluation: no rows come, or it runs in training only, or never.

    Args:
        net: is left as it is.
        layers: their names.
        example: one input batch.
    """
    return idle(recorded(clone(net), example), layers) if layers else {}


def idle(modes: Mapping[Mode, Recorded], layers: Sequence[str]) -> dict[str, str]:
    """Return what :func:`not_called` does, of a network that was run already.

    Args:
        modes: what it did in each mode, evaluation among them.
        layers: their names.
    """
    evaluated = modes[evaluation]
    trained = [record.layers for mode, record in modes.items() if mode is not evaluation]
    found = {}
    for name in layers:
        if evaluated.layers[name]:
            found[name] = "it gets no rows of the example input"
        elif any(times[name] for times in trained):
            found[name] = "it runs in training mode alone"
        elif f"{name}.weight" in evaluated.read:
            found[name] = "it is not called: something else reads its weight, as attention does"
        else:
            found[name] = NEVER if training in modes else UNTRAINED
    return found


class _Padding(TorchFunctionMode):
    """Notes whether channels are padded with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.pad:
            given = {**dict(zip(("input", "pad"), args, strict=False)), **kwargs}
            dims, pad = given["input"].dim(), tuple(given["pad"])
            self.found |= dims > 2 and any(pad[2 * (dims - 2) : 2 * (dims - 1)])
        return func(*args, **kwargs)


def pads_channels(net: nn.Module, example: Any, mode: Mode) -> bool:
    """Return whether a network adds channels of zeros to a tensor, as shortcuts of option A do.

    Args:
        net: is run: pass a copy.
        example: one input batch.
        mode: in which it is run.
    """
    padding = _Padding()
    with torch.no_grad(), padding:
        mode(net, example)
    return padding.found


def innermost(error: BaseException, names: Mapping[int, str]) -> str:
    """Return the name of the innermost module that was running when an error was raised; "" if none was.

    Args:
        error: that was caught.
        names: of modules, by their ids.
    """
    running = [names.get(id(frame.f_locals.get("self")), "") for frame, _ in walk_tb(error.__traceback__)]
    return next((name for name in reversed(running) if name), "")


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
