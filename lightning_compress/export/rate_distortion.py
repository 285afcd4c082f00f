"""Quantize a trained network for the fewest bytes at the least error of its layers' outputs, without training.

    min over codes q:   |X (W - s q)|^2 / |X W|^2  +  price x bits(q),      X: inputs of a layer,  bits: of the coder
    step of a layer:    s^2 = 6 price / (ln 2 x mean_j 1 / d_j^2),    d_j^2 = 1 / (error of weight j alone)

One price of a bit serves all layers, and as many levels are used as come out. Columns are rounded one after the other
and the columns that follow take up each error by least squares. Sources: OBQ and GPTQ (arXiv 2208.11580, 2210.17323)
for that, and Conzelmann and Bamler 2025 (arXiv 2505.18758) for a price on bits in it; the step is that of uniform
quantization at high rates (Gish and Pierce 1968). Ours: bits are those that our coder's own adaptive tables give each
code at its place, weights are taken with the batch norm behind them folded in, and errors of layers count relative to
their outputs. Use it for the smallest file when there is data but no time to train. It breaks where few inputs stand
for many weights of a layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import ceil, log, log2
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lightning_compress.core.errors import CompressError
from lightning_compress.core.packed_size import weight_shape
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import LayerProfile
from lightning_compress.export.range_coded import RangeCoded
from lightning_compress.pruning.input_moments import KEY, gather_moments
from lightning_compress.quantization.quantizers.fixed_grid import FixedGrid
from lightning_compress.surgery import measure, transforms
from lightning_compress.surgery.calibration import calibration_of, drop_calibration
from lightning_compress.surgery.structure import Structure, network, structure_of, write_structure

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

PASSES = 2  # over the weights of a layer, each with the statistics of the codes that the one before left
DAMPING = 0.01  # of the mean second moment, added to all
LEVELS = 250  # at most
BLOCK = 64  # columns after which an error is handed on to all that follow
SMALLEST = 1e-6  # factor of a batch norm over the largest of its layer
POSITIONS = 20  # of each input sample, at least


@torch.no_grad()
def quantize_by_rate(module: nn.Module, inputs: Iterable[Any], price: float, coder: RangeCoded | None = None) -> None:
    """Quantize the weights of all convolutions and linear layers, in place; save with the same coder.

    Args:
        module: a LightningModule or a network with trained weights, neither masked nor quantized.
        inputs: batches of the network's inputs, of train data: about a thousand samples.
        price: relative squared error of a layer's output that one bit is worth, such as 1e-6: larger, smaller file.
        coder: whose statistics are used.

    Raises:
        CompressError: the price is not above 0, there are no inputs, or a layer is masked or quantized already.
    """
    if not price > 0:
        raise CompressError(f"quantize_by_rate: price must be above 0, got {price}; 1e-6 is a usual one")
    net, coder, batches = network(module), coder or RangeCoded(), list(inputs)
    gather_moments(net, batches, POSITIONS)
    record = structure_of(net) or Structure(measure.measure(net, batches[0]))
    norms = {layer.follows: layer.name for layer in record.profile if layer.follows}
    moments, changed = calibration_of(net, KEY), []
    for layer in record.profile.weighted:
        if layer.weight_bits < 32 or layer.mask_unit:
            raise CompressError(
                f"quantize_by_rate: layer {layer.name!r} is masked or quantized already; start from the plain network"
            )
        found = moments.get(layer.name)
        features = layer.weights // layer.out_channels
        known = found is not None and len(found.by_group()) == 1  # of grouped ones each group has its own
        second = found.features.cpu().double().numpy() / found.rows if known else np.eye(features)
        changed.append(_quantize(net, layer, norms.get(layer.name), second, price, coder))
    bits = Plan({layer.name: {"weight_bits": layer.weight_bits} for layer in changed})
    applied = {**record.applied, "quantization": record.applied.get("quantization", Plan({})).merge(bits)}
    write_structure(net, Structure(record.profile.update(changed), applied, record.asked))
    drop_calibration(net)


def _quantize(
    net: nn.Module, layer: LayerProfile, norm: str | None, second: Floats, price: float, coder: RangeCoded
) -> LayerProfile:
    """Quantize one layer; return its profile."""
    module = net.get_submodule(layer.name)
    factor = np.ones(layer.out_channels)
    if norm is not None:
        factor = transforms.fold_batch_norm(module, net.get_submodule(norm))[0].abs().cpu().double().numpy()
        factor = np.maximum(factor, SMALLEST * max(factor.max(), SMALLEST))
    weight = module.weight.detach()
    rows = weight.cpu().double().numpy().reshape(layer.out_channels, -1) * factor[:, None]
    power = float(np.einsum("of,of->", rows @ second, rows))
    step, codes = rounded(rows, second / power if power > 0 else second, price, weight_shape(layer), coder)
    low, bits = int(codes.min()), _width(codes)
    shape = () if norm is None else (layer.out_channels, *[1] * (weight.dim() - 1))
    scale = torch.from_numpy(step / factor).float().view(shape) if shape else torch.tensor(step, dtype=torch.float32)
    grid = FixedGrid(bits, shape, float(low)).to(weight.device)
    grid.scale.copy_(scale)
    module.weight.copy_(grid.decode(torch.from_numpy(codes - low).view(weight.shape).to(weight.device), grid.scale))
    transforms.attach_weight(module, grid, first=True)
    return replace(layer, weight_bits=bits, weight_scales=max(grid.scale.numel(), 1))


def rounded(
    weight: Floats, second: Floats, price: float, shape: tuple[int, ...], coder: RangeCoded
) -> tuple[float, Codes]:
    """Return the step and the codes of a layer.

    Args:
        weight: shape ``(rows, features)``.
        second: moments of the inputs, shape ``(features, features)``, in units of the error that ``price`` is in.
        price: of a bit.
        shape: of the weight in the network, in which it is coded.
        coder: that will write the codes.

    Returns:
        The step, and codes around 0, shape ``(rows, features)``; ``step * codes`` stands for the weight.
    """
    damped = second + DAMPING * max(float(np.mean(np.diag(second))), 1e-30) * np.eye(len(second))
    after = np.linalg.cholesky(np.linalg.inv(damped)).T  # row j: how an error of column j is taken up by the next
    spread = np.diag(after)
    step = float(np.sqrt(6 * price / (log(2) * np.mean(spread**-2))))
    step = max(step, 2 * float(np.abs(weight).max()) / LEVELS, 1e-30)
    codes = np.rint(weight / step).astype(np.int64)
    for _ in range(PASSES):
        codes = _pass(weight, after, spread, step, price=price, codes=codes, shape=shape, coder=coder)
    return step, codes


def _pass(
    weight: Floats,
    after: Floats,
    spread: Floats,
    step: float,
    *,
    price: float,
    codes: Codes,
    shape: tuple[int, ...],
    coder: RangeCoded,
) -> Codes:
    """Return codes that are better for the statistics of the given ones."""
    low, high, found = int(codes.min()), int(codes.max()), np.zeros_like(codes)
    bits, which = coder.code_lengths((codes - low).astype(np.uint8).ravel(), _width(codes), shape)
    which, left, every = which.reshape(codes.shape), weight.copy(), np.arange(len(codes))
    for begin in range(0, codes.shape[1], BLOCK):
        end = min(begin + BLOCK, codes.shape[1])
        errors = np.zeros((len(codes), end - begin))
        for j in range(begin, end):
            nearest = np.clip(np.rint(left[:, j] / step), low, high).astype(np.int64)
            inward = nearest - np.sign(nearest)
            able = np.clip(np.stack([nearest, inward, inward - np.sign(inward), 0 * nearest]), low, high)
            error = (left[:, j] - able * step) / spread[j]
            best = (error**2 + price * bits[which[:, j], able - low]).argmin(0)
            found[:, j], errors[:, j - begin] = able[best, every], error[best, every]
            left[:, j + 1 : end] -= np.outer(errors[:, j - begin], after[j, j + 1 : end])
        left[:, end:] -= errors @ after[begin:end, end:]
    return found


def _width(codes: Codes) -> int:
    """Return bits that hold the codes."""
    return max(ceil(log2(int(codes.max()) - int(codes.min()) + 1)), 1)
