"""Run a network as it runs in evaluation and in training, so that what is done to it holds in both.

Auxiliary heads, deep supervision and contrastive heads run in training only. Training mode is entered without dropout:
how many random numbers that draws depends on the width of a layer, so two widths could not be compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from lightning_compress.surgery import measure

Mode = Callable[[nn.Module, Any], Any]  # (network, example) -> output; leaves the network in that mode
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
        return measure.forward(net.train(), tree_map(_doubled, example))


def _doubled(leaf: Any) -> Any:
    return torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == 1 else leaf


def modes_of(net: nn.Module, example: Any) -> list[Mode]:
    """Return the modes that a network runs in; training is left out where it fails, as one that asks for targets.

    Args:
        net: is run, and its running statistics move: pass a copy.
        example: one input batch.
    """
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            training(net, example)
    except Exception:  # whatever the network's own forward raises
        return [evaluation]
    return [evaluation, training]


def layers_run(net: nn.Module, example: Any, mode: Mode) -> Counter[str]:
    """Return how often each sub-module runs in a mode.

    Args:
        net, example: as for :func:`modes_of`.
        mode: one that the network runs in.
    """
    times: Counter[str] = Counter()

    def counted(name: str) -> Any:
        return lambda *_: times.update([name])

    handles = [module.register_forward_hook(counted(name)) for name, module in net.named_modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            mode(net, example)
    finally:
        for handle in handles:
            handle.remove()
    return times


def draws_numbers(net: nn.Module, example: Any, mode: Mode) -> bool:
    """Return whether the forward pass draws random numbers.

    Args:
        net, example, mode: as for :func:`layers_run`.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        mode(net, example)
        return not torch.equal(before, torch.get_rng_state())
