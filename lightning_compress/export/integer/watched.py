"""Watch the tensors of a network in use, and put grids there afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any, final

import torch
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError
from lightning_compress.quantization.quantizers.activation import ActivationQuantizer
from lightning_compress.quantization.quantizers.min_max_activation import MinMaxActivation
from lightning_compress.surgery import transforms

WIDER = 1.05  # times the range of a trained grid that is still clipped to it


@final
class Watcher(transforms.Transform):
    """Keeps the least and the largest value of a tensor, which passes as it is."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits, self.least, self.most = bits, float("inf"), float("-inf")

    def forward(self, x: Tensor) -> Tensor:
        """Return what came, after a look at it.

        Raises:
            CompressError: it is not finite.
        """
        least, most = float(x.amin()), float(x.amax())
        if not isfinite(least + most):
            raise CompressError(
                "export: a calibration batch gives values in the network that are not finite; pass inputs as they are "
                "in use"
            )
        self.least, self.most = min(self.least, least), max(self.most, most)
        return x

    def fits(self, other: Watcher) -> bool:
        """Return whether the grid of what another one watched holds what this one saw."""
        most = WIDER * max(other.most, -other.least)
        return self.most <= most and -self.least <= (most if other.least < 0 else 0)

    def quantizer(self) -> MinMaxActivation:
        """Return the quantizer that covers what was seen."""
        found = MinMaxActivation(self.bits)
        found.unpack(torch.tensor([max(abs(self.least), abs(self.most)), float(self.least < 0)]))
        return found


@dataclass(frozen=True)
class Place:
    """One place where a tensor is watched.

    Attributes:
        group: the same object for all places that share a grid.
        own: watches this place alone.
        layer: whose input it is, or "".
        exchange: puts a quantizer there.
    """

    group: Watcher
    own: Watcher
    layer: str
    exchange: Callable[[nn.Module], None]


def own_watchers(net: nn.Module) -> list[Place]:
    """Give each place where a watcher is attached one of its own, and return the places."""
    found: list[Place] = []
    for name, layer in transforms.transformed(net).items():
        for watcher, drop, attach in (
            (transforms.input_transform(layer), transforms.drop_input, transforms.attach_input),
            (transforms.output_transform(layer), transforms.drop_output, transforms.attach_output),
        ):
            if isinstance(watcher, Watcher):
                own = Watcher(watcher.bits)
                drop(layer)
                attach(layer, own)
                is_input = attach is transforms.attach_input
                found.append(Place(watcher, own, name if is_input else "", partial(_exchange, layer, drop, attach)))
    return found


def _exchange(layer: nn.Module, drop: Callable[..., Any], attach: Callable[..., Any], quantizer: nn.Module) -> None:
    drop(layer)
    attach(layer, quantizer)


def put_grids(places: Sequence[Place], trained: Mapping[str, ActivationQuantizer]) -> None:
    """Put quantizers in the place of what watched.

    Places that share a grid get one quantizer: that of the first trained layer among them, else one for the range that
    all of them saw. Places that saw a wider range than that layer, such as what a pooling averages for it, get one for
    their own range: they would be clipped.

    Args:
        places: all of a network.
        trained: layer -> quantizer of its input.
    """
    kept = {place: _kept(place, places, trained) for place in places}
    made: dict[Watcher, ActivationQuantizer] = {}
    for place, quantizer in kept.items():
        if quantizer is None and place.group not in made:
            alike = [other.own for other in places if other.group is place.group and kept[other] is None]
            made[place.group] = _joined(alike).quantizer()
        place.exchange(quantizer or made[place.group])


def _kept(
    place: Place, places: Sequence[Place], trained: Mapping[str, ActivationQuantizer]
) -> ActivationQuantizer | None:
    """Return the trained quantizer that serves at a place, or None."""
    for other in places:
        if other.group is place.group and other.layer in trained and place.own.fits(other.own):
            return trained[other.layer]
    return None


def _joined(watchers: list[Watcher]) -> Watcher:
    found = Watcher(watchers[0].bits)
    found.least, found.most = min(w.least for w in watchers), max(w.most for w in watchers)
    return found
