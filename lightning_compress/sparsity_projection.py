"""Which weights to keep under one limit in bits for all layers, when each layer's bits a weight are given.

    max sum_i sum_{j kept} w_ij^2     s.t.     sum_i (b_i + c_i) kept_i <= S
    kept:  |w_ij| >= tau sqrt(b_i + c_i),     tau by bisection

Source: the sparsity projection of Yang et al. 2020 (arXiv 1910.05897), a knapsack solved greedily by value per bit;
that the greedy order is one scalar threshold is plain algebra. Ours: bisection on counts (integers, one layer at a
time, so no copy of all weights and no rounding of long sums), the bits left over filled with the largest weights that
still fit, ``c_i`` for indices, and a floor that keeps layers connected. Without a floor the sum of squares is below the
best possible one by less than that of one weight. With equal bits everywhere it is global magnitude pruning. A network
within the limit is kept as it is, so projecting twice changes nothing. It breaks where ``b_i`` and ``c_i`` follow from
what is kept: give those of the step before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor, isfinite, sqrt

import torch
from torch import Tensor

from lightning_compress.errors import CompressError, InfeasibleBudgetError

UNITS = 1 << 16  # a bit in the integers that sizes are counted in; index bits are rounded up to them
BRACKET = 4096  # weights between two thresholds, few enough to be sorted


@dataclass(frozen=True)
class Kept:
    """What a sparsity projection keeps.

    Attributes:
        counts: kept weights of each layer.
        masks: True where kept, with the layer's shape; never at a weight of zero.
        bits: what they take, at most the limit.
    """

    counts: dict[str, int]
    masks: dict[str, Tensor]
    bits: float


@torch.no_grad()
def project_sparsity(
    weights: Mapping[str, Tensor],
    bits: Mapping[str, float],
    limit: float,
    index_bits: Mapping[str, float] | None = None,
    least: int = 0,
) -> Kept:
    """Keep the weights with the largest ``w^2`` per bit, as many as fit; equal ones in the order of layers and places.

    Args:
        weights: layer -> weight, any shape.
        bits: layer -> bits of a kept weight, above 0.
        limit: bits for all layers.
        index_bits: layer -> bits to say where a kept weight is, beside those of its value; None for 0.
        least: weights that each layer keeps at least, where it has so many that are not zero.

    Raises:
        InfeasibleBudgetError: ``least`` weights a layer take more than the limit.
        CompressError: a weight is NaN or infinite, or bits are not above 0.
    """
    sizes = {name: _units(name, bits[name] + (index_bits or {}).get(name, 0)) for name in weights}
    floors = {name: min(least, int(w.count_nonzero())) for name, w in weights.items()}
    needed = sum(floors[name] * size for name, size in sizes.items())
    if needed > limit * UNITS:
        raise InfeasibleBudgetError(
            f"sparsity projection: the limit of {limit:,.0f} bits cannot be met; {least} weights in each layer take "
            f"{ceil(needed / UNITS):,} bits. Raise the limit, or keep fewer at least"
        )
    tau, below = _bracket(weights, sizes, floors, limit)
    thresholds = {name: tau * sqrt(sizes[name]) for name in weights}
    counts = {name: max(floors[name], _count(w, thresholds[name])) for name, w in weights.items()}
    used = sum(counts[name] * size for name, size in sizes.items())
    if below < tau:
        _fill(weights, sizes, thresholds, counts, floor(limit * UNITS) - used)
    masks = {name: _largest(w.abs(), thresholds[name], counts[name]) for name, w in weights.items()}
    return Kept(counts, masks, sum(counts[name] * size for name, size in sizes.items()) / UNITS)


def _units(name: str, bits: float) -> int:
    if not (isfinite(bits) and bits > 0):
        raise CompressError(f"sparsity projection: bits of layer {name!r} must be above 0, got {bits}")
    return ceil(bits * UNITS)


def _count(weight: Tensor, threshold: float) -> int:
    """Weights of at least the threshold in size that are not zero."""
    if not weight.new_tensor(threshold):  # also where it is too small for the type of the weight
        return int(weight.count_nonzero())
    return int((weight.abs() >= threshold).count_nonzero())


def _bracket(
    weights: Mapping[str, Tensor], sizes: Mapping[str, int], floors: Mapping[str, int], limit: float
) -> tuple[float, float]:
    """A ``tau`` at which all fits, and one at most as large at which it does not; twice 0 when everything fits."""

    def found(tau: float) -> tuple[int, int]:
        counts = {n: max(floors[n], _count(w, tau * sqrt(sizes[n]))) for n, w in weights.items()}
        return sum(counts[n] * sizes[n] for n in counts), sum(counts.values())

    def fits(size: int) -> bool:
        return size <= limit * UNITS

    size, many = found(0.0)
    if fits(size):
        return 0.0, 0.0
    low, high, few = 0.0, 2 * _largest_score(weights, sizes), 0
    while many - few > BRACKET:
        middle = (low + high) / 2
        if not low < middle < high:  # neighbouring floats: what is between them are equal weights
            break
        size, count = found(middle)
        low, high, many, few = (low, middle, many, count) if fits(size) else (middle, high, count, few)
    return high, low


def _largest_score(weights: Mapping[str, Tensor], sizes: Mapping[str, int]) -> float:
    largest = 0.0
    for name, weight in weights.items():
        most = float(weight.abs().max()) if weight.numel() else 0.0
        if not isfinite(most):
            raise CompressError(f"sparsity projection: layer {name!r} holds NaN or infinity; its training diverged")
        largest = max(largest, most / sqrt(sizes[name]))
    return largest


def _fill(
    weights: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    thresholds: Mapping[str, float],
    counts: dict[str, int],
    room: int,
) -> None:
    """Raise the counts by the largest weights per bit that still fit into ``room``."""
    names, values = list(weights), []
    for name in names:
        rest = _below(weights[name].abs(), thresholds[name])
        skip = counts[name] - _count(weights[name], thresholds[name])  # kept already, by the floor
        top = rest.topk(min(room // sizes[name] + skip, rest.numel())).values[skip:]
        values.append(top.double().square().cpu() / sizes[name])
    layer = torch.repeat_interleave(torch.arange(len(names)), torch.tensor([len(v) for v in values]))
    order = torch.cat(values).sort(descending=True, stable=True).indices if values else layer
    layer = layer[order]
    size = torch.tensor([sizes[name] for name in names], dtype=torch.int64)[layer]
    while len(layer):
        taken = int((size.cumsum(0) <= room).count_nonzero())
        for index, count in zip(*layer[:taken].unique(return_counts=True), strict=True):
            counts[names[int(index)]] += int(count)
        room -= int(size[:taken].sum())
        fitting = size[taken:] <= room
        layer, size = layer[taken:][fitting], size[taken:][fitting]


def _below(size: Tensor, threshold: float) -> Tensor:
    return size[(size < threshold) & (size > 0)]


def _largest(size: Tensor, threshold: float, count: int) -> Tensor:
    """A mask of all that reach the threshold and the largest below it, ``count`` in all; equal ones from the front."""
    mask = ((size >= threshold) & (size > 0)).contiguous()
    missing = count - int(mask.count_nonzero())
    if missing > 0:
        least = _below(size, threshold).topk(missing).values[-1]
        larger = (size > least) & ~mask
        ties = ((size == least) & ~mask).flatten().nonzero().flatten()
        mask |= larger
        mask.view(-1)[ties[: missing - int(larger.count_nonzero())]] = True
    return mask
