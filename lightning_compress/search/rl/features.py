"""Features of a choice for policies: numbers in [0, 1] that mean the same for every network.

After AMC (arXiv 1802.03494, section 3.1) and HAQ (arXiv 1811.08886, section 3.1), whose states are layer index, type,
channels, stride, kernel, weights, FLOPs, what was reduced, what is left, and the last action. There, each column is
scaled by its range over the layers of one network, so that a policy cannot be moved to another; here widths are in
logarithms and sizes are shares of the network (a reconstruction), so that it can.
"""

from __future__ import annotations

from math import log2, prod

import numpy as np
from numpy.typing import NDArray

from lightning_compress.core.profile import LayerProfile
from lightning_compress.search.problem import Problem

SCHEMA = 1  # of the columns below; a policy of another schema cannot be used

COLUMNS = (
    "position", "depthwise", "linear", "in_channels", "out_channels", "kernel", "stride", "weight_share", "mac_share",
    "first_knob", "committed", "at_stake", "last_action",
)  # fmt: skip
LIVE = 3  # the last columns change during a roll-out


class Features:
    """Observations of one problem, shape ``(len(COLUMNS),)`` for each choice.

    ``committed`` is the share of the budget's slack that the choices so far have taken, ``at_stake`` the share of the
    slack's demand that this and later choices could still take, ``last_action`` the projected action before this one.

    Attributes:
        affordable: the share of all choices' demand that the budget's slack pays.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        space, budget = problem.space, problem.budget
        weights = max(sum(layer.weights for layer in problem.dense), 1)
        macs = max(problem.dense.macs, 1)
        knobs = sorted({choice.knob for choice in space.choices})
        self.static = np.zeros((len(space), len(COLUMNS)), dtype=np.float32)
        for i, choice in enumerate(space.choices):
            position, layers = i / max(len(space) - 1, 1), problem.dense.inside(choice.layer)
            first = float(choice.knob == knobs[0])
            shares = sum(p.weights for p in layers) / weights, sum(p.macs for p in layers) / macs
            self.static[i, :-LIVE] = (position, *_layer(layers[0]), *shares, first)
        self._point, self._decided = budget.moving(space.smallest), 0
        self._floor = self._point.cost
        self._slack = max(budget.limit - self._floor, 1e-9)
        # Demand of each choice alone, above the floor: linear where costs multiply, which is enough for a feature.
        demand = np.array([self._point.after(i, most) for i, most in enumerate(space.largest)]) - self._floor
        total = max(float(demand.sum()), 1e-9)
        self.affordable = min(self._slack / total, 1.0)
        self._at_stake = np.append(np.cumsum(demand[::-1])[::-1], 0.0) / total

    def at(self, decided: tuple[int, ...], last_action: float) -> NDArray[np.float32]:
        """Return the observation for choice number ``len(decided)``."""
        i = len(decided)
        spent = self._cost_of(decided) - self._floor
        row = self.static[i].copy()
        row[-LIVE:] = (min(spent / self._slack, 1.0), self._at_stake[i], last_action)
        return row

    def _cost_of(self, decided: tuple[int, ...]) -> float:
        """Return the cost with the rest at its minimum; a walk asks for one choice more each time."""
        before = self._decided
        if len(decided) == before + 1 and decided[:-1] == tuple(self._point.indices[:before]):
            self._point.move(before, decided[-1])
        elif decided != tuple(self._point.indices[:before]):
            self._point = self.problem.budget.moving((*decided, *self.problem.space.smallest[len(decided) :]))
        self._decided = len(decided)
        return self._point.cost


def _layer(layer: LayerProfile) -> tuple[float, ...]:
    return (
        float(layer.groups > 1 and layer.groups == layer.in_channels),
        float(layer.kind == "linear"),
        min(log2(layer.in_channels + 1) / 12, 1.0),
        min(log2(layer.out_channels + 1) / 12, 1.0),
        min(prod(layer.kernel) ** 0.5 / 7, 1.0),
        min(layer.stride / 2, 1.0),
    )
