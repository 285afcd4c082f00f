"""A table of the latency of single layers, for :class:`~lightning_compress.core.costs.latency_table.LatencyTable`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from lightning_compress.core.atomic_write import atomic_write
from lightning_compress.core.profile import LayerProfile
from lightning_compress.surgery.latency import latency
from lightning_compress.surgery.measure import measure
from lightning_compress.surgery.structure import network


def measure_layers(
    module: nn.Module,
    example: Any,
    path: str | Path,
    shares: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    threads: int = 1,
    seconds: float = 0.1,
) -> Path:
    """Time every conv and linear layer of a network alone, at some widths, and write the table.

    For example, with a ResNet on 32 x 32 images::

        measure_layers(resnet20(), torch.zeros(1, 3, 32, 32), "resnet20-latency.yaml")

    Args:
        module: a LightningModule or a network; dense.
        example: one input batch; layers are timed with one sample each.
        path: of the table.
        shares: of the input and of the output channels that layers are timed at, each in (0, 1].
        threads: of the CPU.
        seconds: how long each layer is timed.
    """
    profile = measure(network(module), example)
    layers = {
        replace(layer, name="", extras=0, follows=""): None
        for found in profile.weighted
        for layer in _widths(found, shares)
    }
    entries = [{**_fields(layer), "milliseconds": round(_milliseconds(layer, threads, seconds), 6)} for layer in layers]
    with atomic_write(Path(path)) as part:
        part.write_text(yaml.safe_dump({"overhead": 0.0, "layers": entries}, sort_keys=False, default_flow_style=None))
    return Path(path)


def _widths(layer: LayerProfile, shares: Sequence[float]) -> Iterator[LayerProfile]:
    """Return the layer at all pairs of widths; a grouped one keeps the channels that each group has."""
    if layer.groups > 1:
        for share in shares:
            groups = max(1, round(share * layer.groups))
            yield replace(
                layer, groups=groups, in_channels=groups * (layer.in_channels // layer.groups),
                out_channels=groups * (layer.out_channels // layer.groups),
            )  # fmt: skip
        return
    for inputs, outputs in product(shares, shares):
        yield replace(
            layer, in_channels=max(1, round(inputs * layer.in_channels)),
            out_channels=max(1, round(outputs * layer.out_channels)),
        )  # fmt: skip


def _fields(layer: LayerProfile) -> dict[str, Any]:
    fields = layer.to_dict()
    del fields["name"]
    return fields


def _milliseconds(layer: LayerProfile, threads: int, seconds: float) -> float:
    """Return the time of a layer on its number of positions; a convolution sees a square image or a line."""
    if layer.kind == "linear":
        module: nn.Module = nn.Linear(layer.in_channels, layer.out_channels)
        example = torch.randn(1, layer.positions, layer.in_channels)
    else:
        made: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(layer.kernel)]
        module = made(layer.in_channels, layer.out_channels, layer.kernel, layer.stride, groups=layer.groups)
        sides = _sides(layer.positions, len(layer.kernel))
        inputs = [(side - 1) * layer.stride + kernel for side, kernel in zip(sides, layer.kernel, strict=True)]
        example = torch.randn(1, layer.in_channels, *inputs)
    return latency(module, example, threads, seconds).milliseconds


def _sides(positions: int, dimensions: int) -> list[int]:
    side = round(positions ** (1 / dimensions))
    return [side] * dimensions if side**dimensions == positions else [positions, *[1] * (dimensions - 1)]
