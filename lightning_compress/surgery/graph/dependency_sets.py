"""Sets of coupled channels from torch-pruning's dependency graph, and what each side of a layer is in them.

A network that torch-pruning cannot trace as a whole is traced part by part: inside its sub-modules there may be
channels that can still be removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_compress.surgery import measure
from lightning_compress.surgery._torch import ConvBase
from lightning_compress.surgery.graph.channels import EACH, IN, OUT
from lightning_compress.surgery.graph.dependencies import Dependencies, Reached, StrayError, width
from lightning_compress.surgery.graph.followed_attention import Projection
from lightning_compress.surgery.graph.merge_sets import Side
from lightning_compress.surgery.graph.token_mixing import Mixing, set_mixing_aside
from lightning_compress.surgery.matrices import is_own
from lightning_compress.surgery.modes import Mode
from lightning_compress.surgery.transforms import WEIGHT

TOKENS = "tokens, which other layers mix"


def dependency_sets(
    net: nn.Module, example: Any, failures: set[str], mode: Mode, mixing: Set[str]
) -> Iterator[list[Side]]:
    """Yield sides for each root; what mixes tokens is followed around, and then inside.

    Args:
        net: a copy, which is run; autograd follows it.
        example: one input batch.
        failures: is told of the parts that torch-pruning cannot trace.
        mode: in which it runs.
        mixing: names of the modules that may mix tokens.
    """
    for name, aside in set_mixing_aside(net, example, mode, mixing).items():
        nothing = np.arange(0)
        ends = Side("", TOKENS, nothing, nothing)
        if isinstance(aside.inside[0], measure.LINEAR):
            tokens = np.arange(aside.inside[0].out_features)
            yield [Side(name, OUT, tokens, tokens), ends]
            continue
        for part in _coupled_sets(aside.inside[0], f"{name}.", aside.example[0], failures, mode):
            yield part if any(side.side == IN for side in part) else [*part, ends]
    yield from _coupled_sets(net, "", example, failures, mode)


def _coupled_sets(net: nn.Module, prefix: str, example: Any, failures: set[str], mode: Mode) -> Iterator[list[Side]]:
    """Return sides for each root, the root itself first; by parts if the whole fails."""
    try:
        graph = Dependencies(net, example, mode)
    except Exception:  # torch-pruning raises anything that its index arithmetic runs into
        failures.add(prefix.rstrip("."))
        inputs = _inputs_of_children(net, example, mode)
        for name, child in net.named_children():
            if name in inputs and any(isinstance(m, measure.KERNELS) for m in list(child.modules())[1:]):
                yield from _coupled_sets(child, f"{prefix}{name}.", inputs[name], failures, mode)
        return
    names: dict[Any, str] = {module: name for name, module in net.named_modules()}
    names |= {parameter: name for name, parameter in net.named_parameters()}
    seen: set[str] = set()
    for module, name in list(names.items()):
        if not isinstance(module, measure.KERNELS) or name in seen or module not in graph:
            continue
        if isinstance(module, Projection):
            continue  # which is pruned by heads
        try:
            found = graph.reached(module)
        except StrayError as stray:
            place = names.get(stray.target)
            beyond = "" if place is None else prefix + place
            channels = np.arange(width(module, inputs=False))
            yield [Side(prefix + name, OUT, channels, channels), Side(beyond, stray.reason, channels[:0], channels[:0])]
            continue
        sides = [s for reached in found if reached.target in names for s in sides_of(reached, names, prefix)]
        sides = [each for side in sides for each in _mixed(side, net, prefix)]
        count = width(module, inputs=False)
        whole = [side for side in sides if side.side == OUT and len(np.unique(side.roots)) == count]
        seen |= {side.layer.removeprefix(prefix) for side in whole}
        yield sides


def _inputs_of_children(net: nn.Module, example: Any, mode: Mode) -> dict[str, Any]:
    """Return the first input of each child in a forward pass."""
    found: dict[str, Any] = {}
    handles = [child.register_forward_pre_hook(_remember(found, name)) for name, child in net.named_children()]
    try:
        with torch.no_grad():
            mode(net, example)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _remember(found: dict[str, Any], name: str) -> Any:
    def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            found.setdefault(name, args[0])

    return hook


def sides_of(reached: Reached, names: Mapping[Any, str], prefix: str) -> list[Side]:
    """Return what one side of a module or parameter is to the group of a root.

    Args:
        reached: the side.
        names: of all modules and parameters.
        prefix: before these names.
    """
    target, name = reached.target, prefix + names[reached.target]
    rows = reached.roots, reached.positions
    if isinstance(target, Projection):
        matrix = f"{name.rpartition('.')[0]}.{target.of}"
        return [Side(matrix, IN, *rows, *target.place)] if reached.inputs else []
    if isinstance(target, nn.Parameter):
        return [Side(name, OUT, *rows, reached.dim, target.shape[reached.dim])]
    if isinstance(target, measure.CONV) and reached.inputs and int(rows[1].max(initial=0)) >= target.in_channels:
        return [Side(name, EACH, *rows)]  # it slides over them
    weighted = isinstance(target, measure.KERNELS)  # whose one output is a channel all the same
    wide = weighted or any(value.dim() and len(value) > 1 for value in target.state_dict().values())
    if not wide and not _mixes(target):
        return []  # a norm without parameters, one slope for all channels: any number of channels fits
    if isinstance(target, nn.Embedding):
        return [Side(f"{name}.weight", OUT, *rows, 1, target.embedding_dim)]
    if isinstance(target, nn.PReLU):
        return [Side(f"{name}.weight", OUT, *rows)]
    if foreign := _foreign(target, wide):
        return [Side(name, foreign, *rows)]
    if isinstance(target, measure.NORM):
        return [Side(name, OUT, *rows)]
    own = {key: p for key, p in target.named_parameters(recurse=False) if key not in ("weight", "bias")}
    gains = [Side(f"{name}.{key}", OUT, *rows, 0, len(p)) for key, p in own.items() if p.dim()]
    depthwise = isinstance(target, ConvBase) and target.groups > 1 and target.groups == target.out_channels
    if depthwise and target.in_channels == target.out_channels:
        return [Side(name, OUT, *rows), Side(name, IN, *rows), *gains]
    return [Side(name, IN, *rows)] if reached.inputs else [Side(name, OUT, *rows), *gains]


def _mixed(side: Side, net: nn.Module, prefix: str) -> list[Side]:
    """Return what stands for the channels of what mixes tokens: the layers in it, which run for each of them."""
    owner, _, key = side.layer.removeprefix(prefix).rpartition(".")
    mixing = net.get_submodule(owner) if key == "channels" else None
    if not isinstance(mixing, Mixing):
        return [side]
    inside = [name for name, module in mixing.inside[0].named_modules() if isinstance(module, measure.LINEAR)]
    names = [f"{prefix}{owner}.{name}" if name else prefix + owner for name in inside]
    return [Side(name, EACH, side.roots, side.positions) for name in names]


def _foreign(target: nn.Module, wide: bool) -> str:
    """Return what a module is whose channels cannot be removed; nothing of one whose channels can.

    Args:
        target: the module.
        wide: whether it has tensors as wide as its channels.
    """
    why = ""
    if isinstance(target, measure.TRANSPOSED) and not is_own(target, WEIGHT):
        why = " whose weight is computed from other parameters"
    elif _mixes(target) and not wide:
        why = " without a weight, whose width a saved file does not show"
    elif isinstance(target, measure.KERNELS + measure.NORM):
        return ""
    return f"a {type(target).__name__}{why}"


def _mixes(module: nn.Module) -> bool:
    return isinstance(module, (nn.LayerNorm, nn.GroupNorm))
