"""Quantize a trained network by one price of a bit, in place and without training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import LayerProfile
from lightning_compress.pruning.input_moments import gather_moments, second_moments
from lightning_compress.quantization.coders.range_coded import RangeCoded
from lightning_compress.quantization.quantizers.fixed_grid import FixedGrid
from lightning_compress.quantization.rate_distortion import RateProblem, code_range
from lightning_compress.surgery import measure
from lightning_compress.surgery.calibration import drop_calibration
from lightning_compress.surgery.output_correction import correct_outputs
from lightning_compress.surgery.structure import Structure, network, structure_of, write_structure
from lightning_compress.surgery.transforms import Transform, attach_weight

POSITIONS = 20  # of each input sample, at least


@torch.no_grad()
def quantize_by_rate(module: nn.Module, inputs: Iterable[Any], price: float, coder: RangeCoded | None = None) -> None:
    """Quantize the weights of all convolutions and linear layers, in place; save with the same coder.

    Biases and statistics of batch norms are corrected for it (output_correction.py).

    Args:
        module: a LightningModule or a network with trained weights, neither masked nor quantized.
        inputs: batches of the network's inputs, of train data: about a thousand samples.
        price: relative squared error of a layer's output that one bit is worth, such as 1e-6: larger, smaller file.
        coder: whose statistics are used.

    Raises:
        CompressError: the price is not above 0 and finite, there are no inputs, or a layer is masked or quantized.
    """
    if not 0 < price < inf:
        raise CompressError(f"quantize_by_rate: price must be above 0 and finite, got {price}; 1e-6 is a usual one")
    net, coder, batches = network(module), coder or RangeCoded(), list(inputs)
    gather_moments(net, batches, POSITIONS)
    record = structure_of(net) or Structure(measure.measure(net, batches[0]))
    norms = {layer.follows: net.get_submodule(layer.name) for layer in record.profile if layer.follows}
    changed: list[LayerProfile] = []
    exact: dict[Transform, Tensor | None] = {}
    for layer in record.profile.weighted:
        if layer.weight_bits < 32 or layer.mask_unit:
            raise CompressError(
                f"quantize_by_rate: layer {layer.name!r} is masked or quantized already; start from the plain network"
            )
        weighted = net.get_submodule(layer.name)
        problem = RateProblem.of(layer, weighted, norms.get(layer.name), second_moments(net, layer.name))
        scale, codes = problem.solve(price, coder)
        before = weighted.weight.clone()
        low, bits = code_range(codes)
        grid = FixedGrid(bits, tuple(scale.shape), float(low)).to(weighted.weight.device)
        grid.scale.copy_(scale)
        weighted.weight.copy_(grid.decode((codes - low).to(grid.scale.device), grid.scale))
        attach_weight(weighted, grid, first=True)
        exact[grid] = before
        changed.append(replace(layer, weight_bits=bits, weight_scales=max(grid.scale.numel(), 1)))
    widths = Plan({layer.name: {"weight_bits": layer.weight_bits} for layer in changed})
    applied = {**record.applied, "quantization": record.applied.get("quantization", Plan({})).merge(widths)}
    write_structure(net, Structure(record.profile.update(changed), applied, record.asked))
    drop_calibration(net)
    correct_outputs(net, record.profile, exact, batches)
