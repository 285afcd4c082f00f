"""From the numbers that went through a forward pass to families of channels: what can be removed of each, and where.

A family holds the numbers that a layer makes, and all that others make which share some of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from lightning_compress.surgery import measure
from lightning_compress.surgery.graph.channel_numbers import ChannelNumbers, SplitBy, smallest_partners
from lightning_compress.surgery.graph.dependencies import Reached


@dataclass(frozen=True)
class Labelled:
    """What channels reach, in families that have no layer in common.

    Attributes:
        families: for each its sides; ``roots`` are the numbers of the channels that go together, from 0.
        ends: for each the operations at which channels are lost.
        splits: for each the splits of its channels.
    """

    families: list[list[Reached]]
    ends: list[list[str]]
    splits: list[list[SplitBy]]


def _settle_reshapes(numbers: ChannelNumbers) -> None:
    """Keep the places of dimensions alike that both tell channels apart: in a shuffle, or branches side by side."""
    for reshape in numbers.reshapes:
        own = numbers.components()[reshape.labels]
        telling = [d for d in range(own.ndim) if (own != own.take([0], d)).any()]
        if len(telling) > 1 and reshape.several:
            numbers.alike(torch.from_numpy(np.ascontiguousarray(reshape.labels.reshape(len(own), -1).T)))
        elif len(telling) == 1:
            size = own.shape[telling[0]]
            numbers.splits.append(SplitBy(reshape.module, size, size, np.unique(reshape.labels)))


def _settle_widths(numbers: ChannelNumbers) -> None:
    """Let channels of dimensions that must stay as wide as each other go together, place by place.

    Where they are the same channels in another order, as behind a shuffle, they are as many anyway.
    """
    for pair in numbers.equal_widths:
        component = numbers.components()
        own, other = (np.sort(component[labels.numpy()]) for labels in pair)
        if (own != other).any():
            numbers.joined(*pair)


def families(numbers: ChannelNumbers) -> Labelled:
    """Return what was found, by families."""
    _settle_reshapes(numbers)
    _settle_widths(numbers)
    _raw_sides(numbers)
    component = numbers.components()
    sides = [(numbers.targets[key], inputs, *_joined(found)) for (key, inputs), found in numbers.sides.items()]
    producing = [component[labels] for target, inputs, labels, _ in sides if not inputs and _makes(target)]
    family = _families(producing, numbers.count)[component]  # of each number
    own = np.unique(np.concatenate([np.zeros(0, np.int64), *producing]))
    own = np.unique(family[own]).tolist()
    index = np.zeros(numbers.count, np.int64)
    for number in own:
        index[family == number] = np.unique(component[family == number], return_inverse=True)[1]
    found = Labelled([[] for _ in own], [[] for _ in own], [[] for _ in own])
    for target, inputs, labels, positions in sides:
        for place, inside in _places(own, family[labels]):
            found.families[place].append(_reached(target, inputs, index[labels[inside]], positions[inside]))
    for name, labels in numbers.ends:
        for place, _ in _places(own, family[labels[labels > 0]]):
            found.ends[place].append(name)
    for split in numbers.splits:
        for place, _ in _places(own, family[split.labels[split.labels > 0]]):
            found.splits[place].append(split)
    return found


def _raw_sides(numbers: ChannelNumbers) -> None:
    """Add the parameters that are used, along the dimension in which their elements are of different channels."""
    component = numbers.components()
    for key, first in numbers.first_of.items():
        parameter = numbers.raw[key]
        own = torch.from_numpy(component[first : first + parameter.numel()]).view(parameter.shape)
        for dim in range(parameter.dim()):
            rows = own.movedim(dim, 0).reshape(parameter.shape[dim], -1)
            if parameter.shape[dim] > 1 and bool((rows == rows[:, :1]).all()) and len(rows.unique()) > 1:
                numbers.targets[key] = (parameter, dim)
                numbers.sides[key, False] = [(rows[:, 0].numpy(), np.arange(len(rows)))]


def _families(producing: list[np.ndarray], count: int) -> np.ndarray:
    """Return component -> the smallest component of its family: those with a producing layer in common."""
    pairs = [np.stack([np.full(len(each), each[0]), each]) for each in producing if len(each)]
    return smallest_partners(np.concatenate([np.zeros((2, 0), np.int64), *pairs], 1), count)


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    labels, positions = (np.concatenate(part) for part in zip(*parts, strict=True))
    return labels, positions


def _places(families: list[int], of: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the place of each family that is among some numbers' families, and which numbers are in it."""
    for number in np.unique(of).tolist():
        if number in families:
            yield families.index(number), of == number


def _reached(target: Any, inputs: bool, roots: np.ndarray, positions: np.ndarray) -> Reached:
    module, dim = target if isinstance(target, tuple) else (target, 0)
    pairs = np.unique((roots << 32) | positions)
    return Reached(module, inputs, dim, pairs >> 32, pairs & ((1 << 32) - 1))


def _makes(target: Any) -> bool:
    """Return whether a layer makes channels, and does not hand on those that it reads."""
    if isinstance(target, measure.CONV + measure.TRANSPOSED):
        return not target.groups == target.in_channels == target.out_channels > 1
    return isinstance(target, (*measure.LINEAR, nn.Embedding))
