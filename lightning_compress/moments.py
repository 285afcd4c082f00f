"""Second moments of the inputs of layers, gathered once: with them a layer's output error needs no forward pass.

    output error of dropping inputs d:   err(d) = d' G d,   G[c, c'] = sum over positions, outputs of Phi_c Phi_c'
    Phi_c: what input channel c contributes to the outputs;   G = W H W' summed over outputs,   H = sum of x x'

A layer's output is linear in its weight, so this is exact, not an expansion (papers 1 and 2: the two-step approximation
of arXiv 1805.11394 is a reconstruction; the least squares are those of AMC and He et al. 2017, arXiv 1707.06168).
Memory: H has (channels x kernel)^2 numbers. Convolutions with more than ``WIDEST`` features keep G alone, linear layers
its diagonal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_compress import trace
from lightning_compress.errors import CompressError
from lightning_compress.gathered import keep
from lightning_compress.gram_masks import elimination_order

WIDEST = 2400  # features; H of that size takes 46 MB
KEY = "moments"


@dataclass(frozen=True)
class Moments:
    """Of the inputs of one layer, in float64.

    Attributes:
        features: H, shape ``(features, features)``, the features of a channel side by side; None for a wide layer.
        gram: G of a wide convolution, shape ``(channels, channels)``; of a wide linear layer its diagonal.
    """

    features: Tensor | None
    gram: Tensor | None

    def channel_gram(self, weight: Tensor) -> Tensor:
        """G for a weight ``(out, channels, kernel...)``: shape ``(channels, channels)``, or its diagonal."""
        if self.features is None:
            return self.gram
        rows = weight.detach().double().flatten(2) if weight.dim() > 2 else weight.detach().double()[..., None]
        channels, size = rows.shape[1:]
        blocks = self.features.view(channels, size, channels, size)
        overlap = torch.einsum("ncd,nke->cdke", rows, rows)
        return (overlap * blocks).sum((1, 3))


class _Recorder:
    """A forward pre-hook that adds up moments at a few random positions of each sample."""

    def __init__(self, layer: nn.Module, positions: int, generator: torch.Generator) -> None:
        self.layer, self.positions, self.generator = layer, positions, generator
        self.features: Tensor | None = None
        self.gram: Tensor | None = None

    @torch.no_grad()
    def __call__(self, _layer: nn.Module, args: tuple[Any, ...]) -> None:
        rows = sampled_rows(self.layer, args[0], self.positions, self.generator).double()
        weight = self.layer.weight.detach().double()
        if rows.shape[1] <= WIDEST:
            found = rows.T @ rows
            self.features = found if self.features is None else self.features + found
            return
        found = _channel_gram(rows, weight) if weight.dim() > 2 else rows.square().sum(0) * weight.square().sum(0)
        self.gram = found if self.gram is None else self.gram + found


def sampled_rows(layer: nn.Module, x: Tensor, positions: int, generator: torch.Generator | None) -> Tensor:
    """What a layer multiplies its weight with, at up to ``positions`` random places of each sample.

    Args:
        layer: a Conv2d without groups, or a Linear.
        x: its input.
        positions: places for each sample.
        generator: of the places; the same state gives the same places for inputs of the same size.

    Returns:
        Shape ``(samples x places, features)``.
    """
    if isinstance(layer, nn.Linear):
        rows = x.flatten(1, -2) if x.dim() > 2 else x[:, None]
    else:
        if layer.padding_mode != "zeros":
            x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
        padding = layer.padding if layer.padding_mode == "zeros" else 0
        if isinstance(padding, str):
            x, padding = F.pad(x, layer._reversed_padding_repeated_twice if padding == "same" else (0,)), 0
        rows = F.unfold(x, layer.kernel_size, layer.dilation, padding, layer.stride).transpose(1, 2)
    count = min(positions, rows.shape[1])
    chosen = torch.rand(len(rows), rows.shape[1], generator=generator).argsort(1)[:, :count].to(rows.device)
    return rows.gather(1, chosen[..., None].expand(-1, -1, rows.shape[2])).flatten(0, 1)


def _channel_gram(rows: Tensor, weight: Tensor) -> Tensor:
    """G without H, some rows at a time."""
    out, channels = weight.shape[:2]
    kernels = weight.flatten(2)
    found = rows.new_zeros(channels, channels)
    for part in rows.split(max(1, 2**22 // (out * channels))):
        contributions = torch.einsum("pcd,ncd->cpn", part.view(len(part), channels, -1), kernels).flatten(1)
        found += contributions @ contributions.T
    return found


def supported(layer: nn.Module) -> bool:
    """Whether moments can be gathered for a layer."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def gather_moments(net: nn.Module, inputs: Iterable[Any], positions: int = 10) -> None:
    """Keep the moments of all supported layers on the network, from forward passes in eval mode.

    Raises:
        CompressError: there is no input.
    """
    generator = torch.Generator().manual_seed(0)
    recorders = {n: _Recorder(m, positions, generator) for n, m in net.named_modules() if supported(m)}
    handles = [r.layer.register_forward_pre_hook(r) for r in recorders.values()]
    try:
        with trace.evaluating(net):
            for x in inputs:
                trace.run(net, x)
    finally:
        for handle in handles:
            handle.remove()
    found = {n: Moments(r.features, r.gram) for n, r in recorders.items()}
    found = {n: m for n, m in found.items() if m.features is not None or m.gram is not None}
    if not found:
        raise CompressError(f"moments: there is no batch to gather inputs of {type(net).__name__} from")
    keep(net, KEY, found)


def removal_error(gram: Tensor, dropped: Tensor) -> Tensor:
    """Squared output error of dropping channels, ``d' G d``.

    Args:
        gram: G, or its diagonal.
        dropped: 0/1, shape ``(..., channels)``.

    Returns:
        Shape ``(...)``.
    """
    dropped = dropped.to(gram)
    return dropped @ gram if gram.dim() == 1 else ((dropped @ gram) * dropped).sum(-1)


def removal_order(gram: Tensor) -> list[int]:
    """Channels in the order in which backward elimination drops them: each time the one that costs least.

    O(channels^2). Equal costs: the first.
    """
    if gram.dim() == 1:
        return gram.argsort(stable=True).tolist()
    return elimination_order(gram.cpu().numpy())
