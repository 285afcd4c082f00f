"""Measuring the profile of a network: one forward pass with hooks.

MACs are counted for conv and linear layers. Attention's matrix products and element-wise work are not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lightning_compress.errors import CompressError
from lightning_compress.profile import LayerProfile, Profile

CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LINEAR = (nn.Linear,)
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORM = (*BATCH_NORM, nn.SyncBatchNorm, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d)


class _Uses(TorchFunctionMode):
    """Counts, for each tensor, the operations that read it; the tensors are kept alive, so that ids stay unique."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()
        self.alive: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            read = {id(leaf): leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
            self.counts.update(read.keys())
            self.alive += read.values()
        return result


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside; every sub-module has its own mode back afterwards."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def run(net: nn.Module, example: Any) -> Any:
    """``net(example)``; a tuple is spread over the arguments, a dict over the keywords, as Lightning does."""
    if isinstance(example, tuple):
        return net(*example)
    return net(**example) if isinstance(example, dict) else net(example)


def measure(net: nn.Module, example: Any) -> Profile:
    """The profile of a network in floating point.

    Args:
        net: any module; its modes, buffers and gradients are left as they were.
        example: one input batch (tensor, tuple or dict), of which the first dimension counts the samples.

    Raises:
        CompressError: the network has no conv or linear layer that runs.
    """
    samples = next(leaf.shape[0] for leaf in tree_leaves(example) if isinstance(leaf, Tensor))
    calls: dict[str, int] = {}
    producer: dict[int, str] = {}
    reads: dict[str, int] = {}
    uses = _Uses()

    def after(name: str, module: nn.Module):
        def hook(_module: nn.Module, args: Any, output: Any) -> None:
            out = output if isinstance(output, Tensor) else next(iter(tree_leaves(output)))
            width = out.shape[1] if isinstance(module, CONV) else out.shape[-1]
            calls[name] = calls.get(name, 0) + out.numel() // (width * samples)
            if isinstance(module, CONV + LINEAR):
                producer[id(out)] = name
                uses.alive.append(out)
            if isinstance(module, BATCH_NORM) and module.running_mean is not None:
                reads[name] = id(args[0])

        return hook

    owners = [(name, module) for name, module in net.named_modules() if _owns_parameters(module)]
    handles = [module.register_forward_hook(after(name, module)) for name, module in owners]
    try:
        with evaluating(net), uses:
            run(net, example)
    finally:
        for handle in handles:
            handle.remove()
    follows = {norm: producer[t] for norm, t in reads.items() if t in producer and uses.counts[t] == 1}
    once = Counter(follows.values())  # a layer that runs twice before two norms cannot be folded into either
    follows = {norm: conv for norm, conv in follows.items() if once[conv] == 1}
    modules, order = dict(owners), [*calls, *(name for name, _ in owners if name not in calls)]
    parts = (layer_profiles(name, modules[name], calls.get(name, 0), follows.get(name, "")) for name in order)
    layers = [layer for part in parts for layer in part]
    if not any(layer.weights and layer.positions for layer in layers):
        raise CompressError(f"profile: {type(net).__name__} runs no conv or linear layer: there is nothing to compress")
    return Profile({layer.name: layer for layer in layers})


def _owns_parameters(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None or isinstance(module, BATCH_NORM)


def layer_profiles(name: str, module: nn.Module, positions: int = 1, follows: str = "") -> list[LayerProfile]:
    """The profile of one module; a module of an unknown type becomes one ``raw`` entry per parameter."""
    if isinstance(module, CONV):
        return [
            LayerProfile(
                name, "conv", module.in_channels, module.out_channels, module.groups, tuple(module.kernel_size),
                module.stride[0], positions, extras=int(module.bias is not None),
            )
        ]  # fmt: skip
    if isinstance(module, LINEAR):
        bias = int(module.bias is not None)
        return [LayerProfile(name, "linear", module.in_features, module.out_features, positions=positions, extras=bias)]
    if isinstance(module, NORM) and (module.weight is None or module.weight.dim() == 1):
        running = getattr(module, "running_mean", None)
        width = next((t.shape[0] for t in (module.weight, running) if t is not None), 0)
        extras = sum(p is not None for p in (module.weight, module.bias))
        buffers = 0 if running is None else 2
        return [LayerProfile(name, "norm", width, width, extras=extras, buffers=buffers, follows=follows)]
    prefix = f"{name}." if name else ""
    return [_raw(prefix + key, parameter) for key, parameter in module.named_parameters(recurse=False)]


def _raw(name: str, parameter: Tensor) -> LayerProfile:
    channels = parameter.shape[0] if parameter.dim() else 1
    return LayerProfile(name, "raw", channels, channels, extras=parameter.numel() // max(channels, 1))
