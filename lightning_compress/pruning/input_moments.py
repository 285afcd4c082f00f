"""Second moments of the inputs of layers, gathered once: with them a layer's output error needs no forward pass.

    output error of dropping inputs d:   err(d) = d' G d,   G[c, c'] = sum over positions, outputs of Phi_c Phi_c'
    Phi_c: what input channel c contributes to the outputs;   G = W H W' summed over outputs,   H = sum of x x'

A layer's output is linear in its weight, so this is exact, not an expansion (papers 1 and 2: the two-step approximation
of arXiv 1805.11394 is a reconstruction; the least squares are those of AMC and He et al. 2017, arXiv 1707.06168).
At least ``positions`` places of each image count, and more for wide layers: see
:func:`input_rows.places`.

Memory: H has (channels x kernel)^2 numbers, in float64 up to 2,400 features (46 MB), in float32 up to 4,608:
512 channels of 3x3 take 85 MB, all of VGG-16's 0.7 GB, once for a whole search. Wider convolutions keep G alone, wider
linear layers its diagonal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError
from lightning_compress.pruning.gram_masks import elimination_order
from lightning_compress.surgery import input_rows, measure
from lightning_compress.surgery.calibration import calibration_of, store_calibration
from lightning_compress.surgery.input_rows import CONVOLUTIONS, added_moments, groups_of, places, sampled_rows
from lightning_compress.surgery.matrices import argument
from lightning_compress.surgery.row_layout import as_rows, weight_rows
from lightning_compress.surgery.tied_weights import is_shared
from lightning_compress.surgery.transforms import raw_weight, weight_transforms

KEY = "moments"


@dataclass(frozen=True)
class Moments:
    """Second moments of the inputs of one layer.

    Attributes:
        features: H, shape ``(features, features)``, the features of a channel side by side; of a grouped convolution
            that of each group, ``(groups, features, features)``; None above ``WIDEST``.
        gram: G of a layer with more than ``DOUBLE`` features, shape ``(channels, channels)``, float64; of a linear
            layer above ``WIDEST`` its diagonal; None for others, whose H gives it at once.
        rows: how many inputs were added up.
    """

    features: Tensor | None
    gram: Tensor | None
    rows: int

    def channel_gram(self, weight: Tensor) -> Tensor:
        """Return G for a weight ``(out, channels, kernel...)``: shape ``(channels, channels)``, or its diagonal."""
        if self.gram is not None:
            return self.gram
        assert self.features is not None  # one of the two is always there
        parts = self.by_group()
        if len(parts) == 1:
            return _gram_of(self.features, weight)
        pairs = zip(parts, weight.chunk(len(parts)), strict=True)
        return torch.block_diag(*(_gram_of(part, rows) for part, rows in pairs))

    def by_group(self) -> Sequence[Tensor]:
        """Return H of each group of a convolution, or the one that there is; none above ``WIDEST``."""
        if self.features is None:
            return ()
        return [self.features] if self.features.dim() == 2 else list(self.features)

    def without_features(self, weight: Tensor) -> Moments:
        """Return the moments with G alone, for errors without a refit."""
        return Moments(None, self.channel_gram(weight), self.rows)


class _Recorder:
    """A forward pre-hook that adds up moments at a few random positions of each sample of so many batches."""

    def __init__(self, layer: nn.Module, positions: int, batches: int, generator: torch.Generator) -> None:
        self.layer, self.positions, self.batches, self.generator = layer, positions, batches, generator
        self.sums: list[Tensor | None] = [None] * groups_of(layer)  # of H, or of G where there is no H
        self.rows = 0

    @torch.no_grad()
    def __call__(self, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        weight, x = weight_rows(self.layer).detach(), argument(args, kwargs, 0, "input")
        if not len(x):  # an expert that no token goes to
            return
        count = places(self.layer, self.positions, self.batches * len(x))
        rows = sampled_rows(self.layer, x, count, self.generator)
        self.rows += len(rows)
        if weight[0].numel() <= input_rows.WIDEST:
            self.sums = [*added_moments(self.sums, rows)]
            return
        if weight.dim() > 2:
            found = _channel_gram(rows.double(), weight.double())
        else:
            found = rows.double().square().sum(0) * weight.double().square().sum(0)
        self.sums = [found if self.sums[0] is None else self.sums[0] + found]

    @property
    def seen(self) -> list[Tensor]:
        """What was added up, of each group."""
        return [each for each in self.sums if each is not None]

    def moments(self) -> Moments:
        """Return the moments of all rows seen; something was fed to it."""
        weight, found = weight_rows(self.layer), self.seen
        width = weight[0].numel()
        if width > input_rows.WIDEST:
            return Moments(None, found[0], self.rows)
        moments = Moments(torch.stack(found) if len(found) > 1 else found[0], None, self.rows)
        return moments if width <= input_rows.DOUBLE else replace(moments, gram=moments.channel_gram(weight))


def _gram_of(features: Tensor, weight: Tensor) -> Tensor:
    """Return G from H, some channels at a time."""
    rows = weight.detach().double().flatten(2) if weight.dim() > 2 else weight.detach().double()[..., None]
    channels, size = rows.shape[1:]
    step = max(1, 2**22 // (size * len(features)))
    found, blocks_of = [], features.view(channels, size, channels, size).split(step)
    for part, blocks in zip(rows.split(step, 1), blocks_of, strict=True):
        overlap = torch.einsum("ncd,nke->cdke", part, rows)
        found.append((overlap * blocks).sum((1, 3)))
    return torch.cat(found)


def _channel_gram(rows: Tensor, weight: Tensor) -> Tensor:
    """Return G without H, some rows at a time."""
    out, channels = weight.shape[:2]
    kernels = weight.flatten(2)
    found = rows.new_zeros(channels, channels)
    for part in rows.split(max(1, 2**22 // (out * channels))):
        contributions = torch.einsum("pcd,ncd->cpn", part.view(len(part), channels, -1), kernels).flatten(1)
        found += contributions @ contributions.T
    return found


def supported(layer: nn.Module) -> bool:
    """Return whether moments can be gathered for a layer: of grouped convolutions those that may get fewer inputs."""
    if not isinstance(layer, CONVOLUTIONS):
        return isinstance(layer, nn.Linear)
    weight = weight_rows(layer)
    return layer.groups == 1 or (weight.shape[1] > 1 and weight[0].numel() <= input_rows.WIDEST)


def refittable(layer: nn.Module, net: nn.Module) -> bool:
    """Return whether least squares can set a layer's weights in place.

    It can where they have no transform, are not above ``WIDEST``, and are those of no other layer of the network.
    """
    if not supported(layer) or weight_rows(layer)[0].numel() > input_rows.WIDEST or weight_transforms(layer):
        return False
    return not is_shared(layer.weight, net)


def gather_moments(net: nn.Module, inputs: Iterable[Any], positions: int = 10) -> None:
    """Keep the moments of all supported layers on the network, from forward passes in eval mode.

    Args:
        net: any module.
        inputs: batches of samples.
        positions: places of each sample that count, or more: see :func:`places`.

    Raises:
        CompressError: there is no input, or a layer's are not finite.
    """
    generator, inputs = torch.Generator().manual_seed(0), list(inputs)
    recorders = {n: _Recorder(m, positions, len(inputs), generator) for n, m in net.named_modules() if supported(m)}
    handles = [r.layer.register_forward_pre_hook(r, with_kwargs=True) for r in recorders.values()]
    try:
        with measure.evaluating(net):
            for x in inputs:
                measure.forward(net, x)
    finally:
        for handle in handles:
            handle.remove()
    fed = {name: recorder for name, recorder in recorders.items() if recorder.rows}
    for name, recorder in fed.items():
        if not all(each.isfinite().all() for each in recorder.seen):
            raise CompressError(f"moments: the inputs of layer {name!r} are not finite; check weights and data")
    if not inputs:
        raise CompressError(f"moments: there is no batch to gather inputs of {type(net).__name__} from")
    store_calibration(net, KEY, {name: recorder.moments() for name, recorder in fed.items()})


def second_moments(net: nn.Module, layer: str) -> NDArray[np.float64] | None:
    """Return the mean of x x' over the inputs of a layer, float64; None where that was not gathered for its weight.

    Of grouped convolutions each group has its own, and None is returned too.
    """
    found: Moments | None = (calibration_of(net, KEY) or {}).get(layer)
    if found is None or len(found.by_group()) != 1:
        return None
    (features,) = found.by_group()
    module = net.get_submodule(layer)
    if len(features) != as_rows(module, raw_weight(module))[0].numel():
        return None
    return features.cpu().double().numpy() / found.rows


def removal_error(gram: Tensor, dropped: Tensor) -> Tensor:
    """Return squared output error of dropping channels, ``d' G d``.

    Args:
        gram: G, or its diagonal.
        dropped: 0/1, shape ``(..., channels)``.

    Returns:
        Shape ``(...)``.
    """
    dropped = dropped.to(gram)
    return dropped @ gram if gram.dim() == 1 else ((dropped @ gram) * dropped).sum(-1)


def removal_order(gram: Tensor) -> list[int]:
    """Return channels in the order of backward elimination: each time the one that costs least.

    O(channels^2). Equal costs: the first.
    """
    if gram.dim() == 1:
        return gram.argsort(stable=True).tolist()
    return elimination_order(gram.cpu().numpy())
