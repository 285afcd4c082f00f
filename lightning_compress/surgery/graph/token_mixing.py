"""Layers that mix tokens: they work on a transposed tensor, and do the same for each channel.

An MLP-Mixer transposes ``(batch, tokens, channels)``, has linear layers over the tokens, and transposes back. Through
them channels stay what they are, so for the stream they are as good as a pointwise operation. What is inside of them is
followed for itself.

Source: Tolstikhin et al. 2021 (MLP-Mixer, arXiv 2105.01601, section 2).
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.surgery import measure
from lightning_compress.surgery._torch import viewed
from lightning_compress.surgery.modes import Mode
from lightning_compress.surgery.replacement import replace_modules


class Mixing(nn.Module):
    """Stands for such a module while channels are followed around it.

    Args:
        inside: the module.
        example: its input, of shape ``(batch, channels, tokens)``.
    """

    def __init__(self, inside: nn.Module, example: Tensor) -> None:
        super().__init__()
        # In lists, so that it is no part of the network.
        self.inside, self.example = [inside], [example]
        self.channels = nn.Parameter(torch.ones(example.shape[1], 1, device=example.device, dtype=example.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape that is computed from each channel alone."""
        return x * self.channels


def set_mixing_aside(net: nn.Module, example: Any, mode: Mode, names: Set[str]) -> dict[str, Mixing]:
    """Put :class:`Mixing` in the place of the outermost modules that mix tokens, in place; return them by name.

    Args:
        net: a copy, which is thrown away.
        example: one input batch.
        mode: in which it runs.
        names: of the modules that may; without any, nothing is run.
    """
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if len(args) == 1 and _transposed(args[0]) and isinstance(output, Tensor) and output.shape == args[0].shape:
                found[name] = args[0].detach()

        return hook

    candidates = {
        name: module
        for name, module in net.named_modules()
        if name in names and any(isinstance(part, measure.LINEAR) for part in module.modules())
    }
    if not candidates:
        return {}
    handles = [module.register_forward_hook(watch(name)) for name, module in candidates.items()]
    try:
        with torch.enable_grad():  # else views do not know what they are of
            mode(net, example)
    finally:
        for handle in handles:
            handle.remove()
    outer = {n: x for n, x in found.items() if not any(n.startswith(f"{other}.") for other in found)}
    made = {name: Mixing(candidates[name], x) for name, x in outer.items()}
    replace_modules(net, made)
    return made


def _transposed(x: Any) -> bool:
    """Return whether a tensor is another one, of sequences, with the last two dimensions exchanged."""
    base = viewed(x) if isinstance(x, Tensor) and x.dim() == 3 else None
    return base is not None and base.dim() == 3 and x.stride() == base.transpose(1, 2).stride()
