"""Search problems of pure arithmetic, on which searchers can be tried in a second."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp

import numpy as np
from numpy.typing import NDArray

from lightning_compress.core.budget import Budget
from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.costs.weight_bits import WeightBits
from lightning_compress.core.local_cost import LocalCost
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.core.space import Choice, Space
from lightning_compress.search.problem import Problem
from lightning_compress.search.trial import Score

KEEP = tuple(round(0.1 * i, 1) for i in range(1, 11))
BITS = (2, 3, 4, 5, 6, 7, 8)


@dataclass(frozen=True)
class Synthetic:
    """A problem and its accuracy surface: each layer's damage grows with what is taken, by its own sensitivity.

    Attributes:
        problem: ``layers`` conv layers, one choice each.
        sensitivity: shape ``(layers,)``.
    """

    problem: Problem
    sensitivity: tuple[float, ...]

    def __call__(self, plan: Plan) -> Score:
        damage = 0.0
        for choice, sensitivity in zip(self.problem.space.choices, self.sensitivity, strict=True):
            value = plan.layers[choice.layer][choice.knob]
            damage += sensitivity * (4.0 ** (2 - value) if choice.knob == "weight_bits" else (1 - value) ** 2)
        space, cost = self.problem.space, self.problem.budget.cost
        before = {"cost": cost(space.plan(space.largest)), "val_acc": 1.0, "val_loss": 0.0}
        return Score({"val_acc": exp(-damage), "val_loss": damage}, {"cost": cost(plan)}, before)

    def key(self, plan: Plan) -> str:
        """Return the digest of the plan: each plan is a network of its own."""
        return plan.digest


def channels(layers: int = 14, budget: float = 0.5, seed: int = 0, family: int | None = None) -> Synthetic:
    """Return a problem of keep ratios under a share of the MACs."""
    return _synthetic("channels", KEEP, layers, budget, seed, family, MACs())


def bits(layers: int = 14, budget: float = 0.5, seed: int = 0, family: int | None = None) -> Synthetic:
    """Return a problem of weight bits under a share of the bits at 8 each."""
    return _synthetic("weight_bits", BITS, layers, budget, seed, family, WeightBits())


def removal(layers: int = 14, budget: float = 0.5, seed: int = 0, family: int | None = None) -> Synthetic:
    """Return a problem of which layers to keep under a share of the MACs."""
    return _synthetic("keep", (0, 1), layers, budget, seed, family, MACs())


def _synthetic(
    knob: str, values: tuple[float, ...], layers: int, share: float, seed: int, family: int | None, cost: Cost
) -> Synthetic:
    dense = _chain(layers)
    space = Space(tuple(Choice(layer.name, knob, values) for layer in dense))

    if knob == "weight_bits":
        dense_at_most = dense.update(replace(layer, weight_bits=int(values[-1])) for layer in dense)
    else:
        dense_at_most = dense

    def predict(plan: Plan) -> Profile:
        changed: list[LayerProfile] = []
        before: float = 1.0
        for layer in dense:
            value = plan.get(layer.name, knob, values[-1])
            if knob == "channels" and (value, before) != (1.0, 1.0):
                kept = max(1, round(layer.out_channels * value))
                changed.append(replace(layer, in_channels=max(1, round(layer.in_channels * before)), out_channels=kept))
            elif knob == "weight_bits" and value != values[-1]:
                changed.append(replace(layer, weight_bits=int(value)))
            elif knob == "keep" and value != values[-1]:
                changed.append(replace(layer, density=float(value)))
            before = value
        return dense_at_most.update(changed)

    def price(plan: Plan) -> float:
        return cost(predict(plan))

    limit = share * price(space.plan(space.largest)) if len(space) else 0.0
    sensitivity = tuple(float(s) for s in 10 ** _exponents(layers, seed, family) * (6 / max(layers, 1)))
    return Synthetic(Problem(Budget(price, limit, space, LocalCost(predict, cost, space)), dense, predict), sensitivity)


def _exponents(layers: int, seed: int, family: int | None) -> NDArray[np.float64]:
    """Return sensitivities over two orders of magnitude, unrelated to the size of the layer.

    Without a family each is drawn by itself. In a family they follow a curve over the relative depth, which is the same
    for all seeds and depths, so that networks of a family have something to teach each other.
    """
    rng = np.random.default_rng(seed)
    if family is None:
        return rng.uniform(-1.7, 0.3, layers)
    knots = np.random.default_rng(family).uniform(-1.7, 0.3, 6)
    curve = np.interp(np.linspace(0, 1, layers), np.linspace(0, 1, len(knots)), knots)
    return curve + rng.normal(0, 0.15, layers)


def _chain(layers: int) -> Profile:
    """Return convolutions whose width doubles and whose area quarters at every third of the depth."""
    found, before = {}, 3
    for i in range(layers):
        stage = min(3 * i // max(layers, 1), 2)
        width, area = 16 * 2**stage, (32 // 2**stage) ** 2
        found[f"conv{i}"] = LayerProfile(f"conv{i}", "conv", before, width, kernel=(3, 3), positions=area)
        before = width
    return Profile(found)
