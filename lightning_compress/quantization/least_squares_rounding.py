"""Round trained weights by least squares on what their layers read, where no training follows that would adapt them.

    min over codes q:   |X_q (W - s q)|^2,      X_q: inputs of the layer in the quantized network,  s: scale of its grid

One column after the other (error_feedback.py), twice: with the inputs that there are while all weights have their
nearest codes, then with those behind the codes of the first time. With weights of 4 bits and inputs of 8, MLPerf Tiny's
ResNet-8 has 86 % with it and 83 % without (benchmarks/results/peers_quant.txt).

Weights become values of their codes, so their quantizer gives the same codes again, in a later training too: a grid may
follow the largest weight of a row, so that weight stays, and no other becomes larger. Weights that several layers
share, that pass through something else before their quantizer, of more than ``WIDEST`` features, or whose quantizer
gives others for its own values (DoReFa's, one bit of min-max) keep their nearest codes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError
from lightning_compress.quantization.error_feedback import Floats, feedback, round_in_turn
from lightning_compress.quantization.quantizers.quantizer import Quantizer
from lightning_compress.quantization.quantizers.weight import WeightQuantizer
from lightning_compress.surgery import input_rows, measure
from lightning_compress.surgery.input_rows import CONVOLUTIONS, added_moments, groups_of, places, sampled_rows
from lightning_compress.surgery.mask import Mask, mask_of
from lightning_compress.surgery.matrices import argument
from lightning_compress.surgery.row_layout import Swapped, as_rows
from lightning_compress.surgery.tied_weights import is_shared
from lightning_compress.surgery.transforms import raw_weight, weight_transforms

PASSES = 2
POSITIONS = 20  # of each input sample, at least
SAME = 1e-3  # relative difference of values of one code; neighbors of 8 bits differ by more


@torch.no_grad()
def round_by_least_squares(
    net: nn.Module, quantizers: Collection[Quantizer], examples: Sequence[Any]
) -> dict[Quantizer, Tensor]:
    """Change weights of convolutions and linear layers so that the codes they round to suit the layers' inputs.

    Args:
        net: with calibrated quantizers; is changed in place.
        quantizers: those whose weights may change.
        examples: input batches.

    Returns:
        Quantizer -> its input of before, of each weight that changed.

    Raises:
        CompressError: the inputs of a layer are not finite.
    """
    weights = list(_weights(net, quantizers))
    for _ in range(PASSES if examples else 0):
        seen = _moments(net, weights, examples)
        for weight in weights:
            if weight.name in seen:
                weight.round(seen[weight.name])
    return {weight.quantizer: weight.before for weight in weights if not weight.before.equal(weight.rows)}


@dataclass(frozen=True)
class _Weight:
    """A weight of a layer, and what it was before.

    Args:
        before: output channels first, as the quantizer sees it.
        kept: of the same shape, false where it is pruned.
    """

    name: str
    layer: nn.Module
    quantizer: WeightQuantizer
    before: Tensor
    kept: Tensor

    @property
    def rows(self) -> Tensor:
        """The weight as it is now, output channels first."""
        return as_rows(self.layer, raw_weight(self.layer))

    def round(self, moments: Sequence[Tensor]) -> None:
        """Give the weight values of better codes, if its quantizer gives these codes for them.

        Args:
            moments: of the inputs of each group.
        """
        before, quantizer = self.before.float(), self.quantizer
        largest = before.flatten(1).abs().amax(1) if quantizer.shape else before.abs().max().expand(len(before))
        largest = largest.view(-1, *[1] * (before.dim() - 1))
        scale = quantizer.codes(before)[1].expand_as(largest)
        least, most = (
            (end / scale - quantizer.shift).clamp(quantizer.low, quantizer.high).round() + quantizer.shift
            for end in (-largest, largest)
        )
        stays = ~self.kept | (before.abs() == largest)
        parts = (before * self.kept, stays, quantizer(before) * self.kept, scale, least, most)
        rows = _Rows(float(quantizer.shift), *(part.flatten(1).cpu().double().numpy() for part in parts))
        found = np.concatenate([part.solve(each) for part, each in zip(rows.split(len(moments)), moments, strict=True)])
        values = torch.from_numpy(found).view_as(before).to(before)
        changed = torch.where(stays, before, values.clamp(-largest, largest)).to(self.before)
        if torch.allclose(quantizer(changed.float())[self.kept], values[self.kept], rtol=SAME, atol=0):
            raw_weight(self.layer).copy_(as_rows(self.layer, changed))


@dataclass(frozen=True)
class _Rows:
    """Rows to round: arrays of shape ``(rows, features)``, or ``(rows, 1)`` for what a row has one of.

    Args:
        shift: of levels, in steps of the grid.
        stays: 1 where ``nearest`` stands for the weight whatever the others get, else 0.
        scale: a step.
        least, most: the lowest and highest level, in steps.
    """

    shift: float
    weight: Floats
    stays: Floats
    nearest: Floats
    scale: Floats
    least: Floats
    most: Floats

    def split(self, groups: int) -> Iterator[_Rows]:
        """Yield the rows of each group."""
        _, *parts = (getattr(self, field.name) for field in fields(self))
        for own in zip(*(np.split(part, groups) for part in parts), strict=True):
            yield _Rows(self.shift, *own)

    def solve(self, second: Tensor) -> Floats:
        """Return what stands for the weights, given the moments of the inputs."""
        scale, least, most = (part[:, 0] for part in (self.scale, self.least, self.most))

        def choose(j: int, column: Floats) -> Floats:
            level = np.clip(np.rint(column / scale - self.shift) + self.shift, least, most)
            return np.where(self.stays[:, j], self.nearest[:, j], level * scale)

        return round_in_turn(self.weight, feedback(second.cpu().double().numpy()), choose)


def _weights(net: nn.Module, quantizers: Collection[Quantizer]) -> Iterator[_Weight]:
    """Yield the weights that may change."""
    for name, layer in net.named_modules():
        transforms = weight_transforms(layer) if isinstance(layer, (*CONVOLUTIONS, nn.Linear)) else []
        own = [t for t in transforms if isinstance(t, WeightQuantizer) and t in quantizers]
        if not own or not all(isinstance(t, Swapped | Mask) for t in transforms if t not in own):
            continue
        raw, mask = raw_weight(layer), mask_of(layer)
        before = as_rows(layer, raw).clone()
        if raw.numel() and before[0].numel() <= input_rows.WIDEST and not is_shared(raw, net):
            kept = torch.ones_like(before, dtype=torch.bool) if mask is None else as_rows(layer, mask)
            yield _Weight(name, layer, own[0], before, kept)


def _moments(net: nn.Module, weights: Iterable[_Weight], examples: Sequence[Any]) -> dict[str, list[Tensor]]:
    """Return the sum of x x' over the inputs of each group of each layer that runs."""
    generator, found = torch.Generator().manual_seed(0), dict[str, list[Tensor]]()
    samples = sum(map(measure.samples_in, examples))

    def note(name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = argument(args, kwargs, 0, "input")
        if len(x):
            rows = sampled_rows(layer, x, places(layer, POSITIONS, samples), generator)
            found[name] = added_moments(found.get(name, [None] * groups_of(layer)), rows)

    for example in examples:
        handles = [
            weight.layer.register_forward_pre_hook(partial(note, weight.name), with_kwargs=True) for weight in weights
        ]
        measure.forward_hooked(net, example, handles)
    for name, parts in found.items():
        if not all(part.isfinite().all() for part in parts):
            raise CompressError(f"quantization: the inputs of layer {name!r} are not finite; check weights and data")
    return found
