"""Allocate bits to layers under one limit for all, given the distortion of each layer at each width.

    min sum_i D_i(b_i)     s.t.     sum_i C_i(b_i) <= S,      one b_i for each layer

Source: the quantization projection of Yang et al. 2020 (arXiv 1910.05897), a multiple-choice knapsack. First greedily:
all layers at their cheapest width, then the steps of each layer's lower convex hull in the order of distortion saved
per bit; a layer whose next step does not fit is closed, the others go on. That is off most with few layers. So then
exactly, by dominance (Nemhauser and Ullmann 1969): layer by layer, all pairs of cost and distortion that nothing else
beats, without those whose Lagrangian bound is no better than the best solution known. Ours: the combination, and that
more than ``STATES`` pairs (many layers with nearly equal trade-offs) are thinned to those with the best bounds; the
result is then near the optimum, and never worse than the greedy one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from lightning_compress.core.errors import CompressError, InfeasibleBudgetError

STATES = 20_000  # partial solutions kept of each layer

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Options:
    """The widths of one layer that are worth having, from the fewest bits to the most, with falling distortion."""

    bits: list[int]
    costs: Floats
    distortions: Floats


def project_bits(
    distortions: Mapping[str, Mapping[int, float]], costs: Mapping[str, Mapping[int, float]], limit: float
) -> dict[str, int]:
    """Return the bits of each layer with the least distortion in all that fit.

    Args:
        distortions: layer -> bits -> squared error of its weights at that width.
        costs: layer -> bits -> what the layer then takes, such as ``bits * nonzeros + 32 * 2 ** bits`` for codes and
            codebook.
        limit: for all layers, in the unit of the costs.

    Raises:
        InfeasibleBudgetError: the cheapest width of every layer is too much.
        CompressError: a layer has no widths, or a distortion or cost that is no number.
    """
    layers = [_options(name, distortions[name], costs[name]) for name in distortions]
    needed = sum(layer.costs[0] for layer in layers)
    if needed > limit:
        raise InfeasibleBudgetError(
            f"bits projection: the limit of {limit:,.10g} cannot be met; with the cheapest width in each layer the "
            f"weights take {needed:,.10g}. Raise the limit, allow fewer bits, or keep fewer weights"
        )
    picks, price = _greedy(layers, limit)
    if price > 0:
        picks = _exact(layers, limit, price, picks)
    return {name: layer.bits[pick] for name, layer, pick in zip(distortions, layers, picks, strict=True)}


def _options(name: str, distortions: Mapping[int, float], costs: Mapping[int, float]) -> _Options:
    if not distortions:
        raise CompressError(f"bits projection: layer {name!r} has no widths to choose from; give one at least")
    for b, distortion in distortions.items():
        if not (isfinite(distortion) and isfinite(costs[b])):
            raise CompressError(
                f"bits projection: layer {name!r} at {b} bits has distortion {distortion} and cost {costs[b]}; both "
                f"must be finite. Find out whether its training diverged"
            )
    kept: list[int] = []
    for b in sorted(distortions, key=lambda b: (costs[b], distortions[b], b)):
        if not kept or distortions[b] < distortions[kept[-1]]:
            kept.append(b)
    return _Options(kept, np.array([float(costs[b]) for b in kept]), np.array([distortions[b] for b in kept]))


def _greedy(layers: list[_Options], limit: float) -> tuple[list[int], float]:
    """Return a choice for each layer, and the saving per bit of the first step that did not fit (0 if all did)."""
    steps = sorted(
        (-saved, number, start, end) for number, layer in enumerate(layers) for saved, start, end in _hull(layer)
    )
    picks, price = [0] * len(layers), 0.0
    room = limit - sum(layer.costs[0] for layer in layers)
    for slope, number, start, end in steps:
        cost = layers[number].costs[end] - layers[number].costs[start]
        if picks[number] == start and cost <= room:
            picks[number] = end
            room -= cost
        else:
            price = price or -slope
    return picks, price


def _hull(layer: _Options) -> list[tuple[float, int, int]]:
    """Return the steps of the lower convex hull: distortion saved per bit (falling), from which option, to which."""
    steps, at = [], 0
    while at < len(layer.bits) - 1:
        slopes = (layer.distortions[at] - layer.distortions[at + 1 :]) / (layer.costs[at + 1 :] - layer.costs[at])
        ahead = len(slopes) - 1 - int(slopes[::-1].argmax())  # the farthest of equal ones
        steps.append((float(slopes[ahead]), at, at + 1 + ahead))
        at += 1 + ahead
    return steps


def _exact(layers: list[_Options], limit: float, price: float, picks: list[int]) -> list[int]:
    """Return the best choice, or ``picks`` where nothing is better."""
    best = sum(layer.distortions[pick] for layer, pick in zip(layers, picks, strict=True))
    least_cost = _rest([float(layer.costs[0]) for layer in layers])
    # With a price for each bit the layers choose apart, and the sum bounds every solution from below.
    least_bound = _rest([float((layer.distortions + price * layer.costs).min()) for layer in layers])
    cost, distortion = np.zeros(1), np.zeros(1)
    trail: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for number, layer in enumerate(layers):
        option = np.repeat(np.arange(len(layer.bits)), len(cost))
        parent = np.tile(np.arange(len(cost)), len(layer.bits))
        new_cost, new_distortion = cost[parent] + layer.costs[option], distortion[parent] + layer.distortions[option]
        bound = new_distortion + price * new_cost + least_bound[number + 1] - price * limit
        kept = np.flatnonzero((new_cost + least_cost[number + 1] <= limit) & (bound < best))
        kept = kept[np.lexsort((new_distortion[kept], new_cost[kept]))]
        falling = new_distortion[kept] < np.concatenate([[np.inf], np.minimum.accumulate(new_distortion[kept])[:-1]])
        kept = kept[falling]
        if len(kept) > STATES:
            kept = kept[np.argsort(bound[kept], kind="stable")[:STATES]]
        if not len(kept):
            return picks
        cost, distortion = new_cost[kept], new_distortion[kept]
        trail.append((parent[kept], option[kept]))
    state = int(distortion.argmin())
    if distortion[state] >= best:
        return picks
    found = []
    for parent, option in reversed(trail):
        found.append(int(option[state]))
        state = int(parent[state])
    return found[::-1]


def _rest(values: list[float]) -> list[float]:
    """Return sums of the values from each place on, and 0 behind the last."""
    sums = [0.0]
    for value in reversed(values):
        sums.append(sums[-1] + value)
    return sums[::-1]
