"""The graph of a single layer, to time it."""

from __future__ import annotations

import numpy as np
import torch

from lightning_compress.core.errors import CompressError
from lightning_compress.core.profile import LayerProfile
from lightning_compress.export.integer.graph import Conv, ConvTranspose, Graph, Grid, Linear, Tensor, Weighted

UNIT = Grid(0.0625, 0, 255)
WEIGHT_SCALE = np.float32(2.0**-10)


def layer_graph(layer: LayerProfile, integer: bool) -> tuple[Graph, torch.Tensor]:
    """Return the graph of a layer with random weights, and an input of one sample.

    Args:
        layer: a convolution of two dimensions, also a transposed one, of which the image is taken to be square, or a
            linear layer.
        integer: in 8-bit integers, else in float32.

    Raises:
        CompressError: it is another layer.
    """
    kernel = layer.kernel
    if kernel and len(kernel) != 2:
        raise CompressError(
            f"latency: layer {layer.name!r} is a convolution of {len(kernel)} dimensions, and two can be timed here; "
            f"give a table: compress/cost=latency_table"
        )
    grid = UNIT if integer else None
    rng = np.random.default_rng(0)
    inside = layer.in_channels // layer.groups
    weight = rng.integers(-127, 128, (layer.out_channels, inside, *kernel)).astype(np.int8 if integer else np.float32)
    scale = np.full(layer.out_channels, WEIGHT_SCALE) if integer else None
    bias = np.zeros(layer.out_channels, np.int32 if integer else np.float32)
    made: Weighted
    if kernel:
        side = max(round(layer.positions**0.5), 1)
        stride = (layer.stride, layer.stride)
        sides = [(side - 1) * layer.stride + width for width in kernel]
        large, small = tuple(sides), (side, side)
        shapes: list[tuple[int, ...]] = [(layer.in_channels, *large), (layer.out_channels, *small)]
        if layer.kind == "conv":
            made = Conv("layer", ("input",), "layer", weight, scale, bias, stride=stride, groups=layer.groups)
        else:  # its positions are those of its input
            made = ConvTranspose("layer", ("input",), "layer", weight, scale, bias, stride=stride, groups=layer.groups)
            shapes = [(layer.in_channels, *small), (layer.out_channels, *large)]
        x = torch.rand(1, *shapes[0])
    else:
        made = Linear("layer", ("input",), "layer", weight, scale, bias)
        shapes = [(layer.in_channels,), (layer.out_channels,)]
        x = torch.rand(layer.positions, layer.in_channels)
    tensors = {name: Tensor(name, shape, grid) for name, shape in zip(("input", "layer"), shapes, strict=True)}
    return Graph("input", "layer", tensors, [made]), x
