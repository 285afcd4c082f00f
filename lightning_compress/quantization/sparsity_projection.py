"""Choose the weights to keep under one limit in bits for all layers, given each layer's bits per weight.

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

from lightning_compress.core.errors import CompressError, InfeasibleBudgetError

UNITS = 1 << 16  # a bit in the integers that sizes are counted in; index bits are rounded up to them
BRACKET = 1 << 16  # weights between two thresholds, few enough to be sorted
SAMPLE = 1 << 20  # weights from which the threshold is guessed before any are counted


@dataclass(frozen=True)
class Kept:
    """Weights that a sparsity projection keeps.

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
    tau, lower = _bracket(weights, sizes, floors, limit)
    counts = {name: max(floors[name], _count(w, tau * sqrt(sizes[name]))) for name, w in weights.items()}
    room = floor(limit * UNITS) - sum(counts[name] * size for name, size in sizes.items()) if lower < tau else 0
    for high, low in ((tau, lower), (lower, 0.0)):
        room -= _fill({n: w for n, w in weights.items() if sizes[n] <= room}, sizes, high, low, counts, room)
    bounds = {name: (tau * sqrt(size), lower * sqrt(size)) for name, size in sizes.items()}
    masks = {name: _largest(w.abs(), *bounds[name], counts[name]) for name, w in weights.items()}
    return Kept(counts, masks, sum(counts[name] * size for name, size in sizes.items()) / UNITS)


def _units(name: str, bits: float) -> int:
    if not (isfinite(bits) and bits > 0):
        raise CompressError(f"sparsity projection: bits of layer {name!r} must be above 0, got {bits}")
    return ceil(bits * UNITS)


def _count(weight: Tensor, threshold: float) -> int:
    """Return the nonzero weights of at least the threshold in size."""
    if not weight.new_tensor(threshold):  # also where it is too small for the type of the weight
        return int(weight.count_nonzero())
    return int((weight.abs() >= threshold).count_nonzero())


def _bracket(
    weights: Mapping[str, Tensor], sizes: Mapping[str, int], floors: Mapping[str, int], limit: float
) -> tuple[float, float]:
    """Return a ``tau`` at which all fits and one at which it does not; twice 0 if everything fits."""

    def found(tau: float) -> tuple[int, int]:
        counts = {n: max(floors[n], _count(w, tau * sqrt(sizes[n]))) for n, w in weights.items()}
        return sum(counts[n] * sizes[n] for n in counts), sum(counts.values())

    def fits(size: int) -> bool:
        return size <= limit * UNITS

    low, high, few = 0.0, 2 * _largest_score(weights, sizes), 0
    size, many = found(low)
    if fits(size):
        return low, low
    guesses = _guesses(weights, sizes, limit) if many > SAMPLE else []
    while many - few > BRACKET:
        middle = (low + high) / 2
        if not low < middle < high:  # neighboring floats: what is between them are equal weights
            break
        if guesses:
            middle = min(max(guesses.pop(), low), high)
        size, count = found(middle)
        low, high, many, few = (low, middle, many, count) if fits(size) else (middle, high, count, few)
    return high, low


def _guesses(weights: Mapping[str, Tensor], sizes: Mapping[str, int], limit: float) -> list[float]:
    """Return two values that ``tau`` is probably between, from every so many-th weight."""
    step = max(1, sum(w.numel() for w in weights.values()) // SAMPLE)
    parts = {name: w.flatten()[::step].abs().double().cpu() / sqrt(sizes[name]) for name, w in weights.items()}
    scores, order = torch.cat(list(parts.values())).sort(descending=True)
    size = torch.cat([torch.full((len(part),), sizes[name] * step) for name, part in parts.items()])[order]
    at = int((size.cumsum(0) <= limit * UNITS).count_nonzero())
    margin = 2 * int(sqrt(at)) + 1
    return [float(scores[min(at + margin, len(scores) - 1)]), float(scores[max(at - margin, 0)])]


def _largest_score(weights: Mapping[str, Tensor], sizes: Mapping[str, int]) -> float:
    largest = 0.0
    for name, weight in weights.items():
        most = float(weight.abs().max()) if weight.numel() else 0.0
        if not isfinite(most):
            raise CompressError(f"sparsity projection: layer {name!r} holds NaN or infinity; its training diverged")
        largest = max(largest, most / sqrt(sizes[name]))
    return largest


def _fill(
    weights: Mapping[str, Tensor], sizes: Mapping[str, int], high: float, low: float, counts: dict[str, int], room: int
) -> int:
    """Raise the counts by the weights between two ``tau`` that still fit, best first; returns what they take."""
    if not weights:
        return 0
    names, values, before = list(weights), [], room
    for name in names:
        root = sqrt(sizes[name])
        rest = _between(weights[name].abs(), low * root, high * root)
        skip = counts[name] - _count(weights[name], high * root)  # kept already, by the floor
        top = rest.topk(min(room // sizes[name] + skip, rest.numel())).values[skip:]
        values.append(top.double().square().cpu() / sizes[name])
    layer = torch.repeat_interleave(torch.arange(len(names)), torch.tensor([len(v) for v in values]))
    layer = layer[torch.cat(values).sort(descending=True, stable=True).indices]
    size = torch.tensor([sizes[name] for name in names], dtype=torch.int64)[layer]
    while len(layer):
        taken = int((size.cumsum(0) <= room).count_nonzero())
        for index, count in zip(*layer[:taken].unique(return_counts=True), strict=True):
            counts[names[int(index)]] += int(count)
        room -= int(size[:taken].sum())
        fitting = size[taken:] <= room
        layer, size = layer[taken:][fitting], size[taken:][fitting]
    return before - room


def _between(size: Tensor, low: float, high: float) -> Tensor:
    return size[(size >= low) & (size < high) & (size > 0)]


def _largest(size: Tensor, high: float, low: float, count: int) -> Tensor:
    """Return a mask of all that reach ``high`` and the largest below it, ``count`` in all; equal ones from the front.

    The largest below are looked for above ``low`` first, which is faster.
    """
    mask = ((size >= high) & (size > 0)).contiguous()
    missing = count - int(mask.count_nonzero())
    if missing > 0:
        rest = _between(size, low, high)
        least = (rest if len(rest) >= missing else _between(size, 0.0, high)).topk(missing).values[-1]
        larger = (size > least) & ~mask
        ties = ((size == least) & ~mask).flatten().nonzero().flatten()
        mask |= larger
        mask.view(-1)[ties[: missing - int(larger.count_nonzero())]] = True
    return mask
