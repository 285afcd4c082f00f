"""Knapsack: bits per layer with the least squared error of all weights that fits the budget.

    min sum_l |W_l - Q_b(W_l)|^2     s.t.     cost(b) <= limit,      b_l from the layer's range

Source: the quantization projection of Yang et al. 2020 (paper 5, arXiv 1910.05897), solved as a multiple-choice
knapsack (bits_projection.py). Theirs is one step within ADMM; alone, as a baseline that every search for bits should
beat, it is ours. The error is that of the quantizer as it starts, before any training, with the network's own weights.
Knobs other than weight bits take their largest values. It breaks where layers differ in how much the loss feels an
error of their weights, of which it knows nothing: use a search there.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.budget import Budget
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.planners.budgeted import BudgetedPlanner
from lightning_compress.pipeline.planners.planner import Planned
from lightning_compress.pipeline.student import Student
from lightning_compress.quantization.bit_allocation import project_bits
from lightning_compress.surgery.isolated_rng import isolated_rng
from lightning_compress.surgery.matrices import weight_place
from lightning_compress.surgery.transforms import raw_weight

KNOB = "weight_bits"
ROUNDING = 1e-12  # of sums of prices that are no whole numbers, such as milliseconds


@final
@dataclass(frozen=True, kw_only=True)
class Knapsack(BudgetedPlanner):
    """Choose bits by the squared error of the weights."""

    def check(self, stage: str) -> None:
        """Raise also if the cost is no sum over layers.

        Raises:
            CompressError: it is so.
        """
        super().check(stage)
        if not self.cost.additive or self.limits:
            which = f"{self.cost.name} is none" if not self.cost.additive else "there are two limits"
            raise CompressError(
                f"stage {stage}: Knapsack needs one cost that is a sum over layers, and {which}; choose another "
                f"planner, such as output_error"
            )

    def make_plan(self, composition: Composition, student: Student, run: RunContext, folder: Path) -> Planned:
        """Return the plan of the least error that meets the budget.

        Raises:
            CompressError: no layer has weight bits to choose.
            InfeasibleBudgetError: the fewest bits everywhere are too many.
        """
        plan = self.allocate(composition, self.budget_for(composition, run, folder.name))
        return Planned(plan, f"made in closed form by {type(self).__name__}; no candidate was scored", limit=self.limit)

    @staticmethod
    def allocate(composition: Composition, budget: Budget) -> Plan:
        """Return the plan of the least error that meets a budget.

        Args:
            composition: the callbacks and the network they will be applied to, which is left as it is.
            budget: over the composition's space.

        Raises:
            CompressError: no layer has weight bits to choose.
            InfeasibleBudgetError: the fewest bits everywhere are too many.
        """
        space = budget.space
        places = {choice.layer: i for i, choice in enumerate(space.choices) if choice.knob == KNOB}
        if not places:
            raise CompressError("Knapsack: no layer has weight_bits to choose; use it with QuantizationAwareTraining")
        base = [0 if choice.knob == KNOB else len(choice.values) - 1 for choice in space.choices]
        least = budget.cost(space.plan(base))
        costs: dict[str, dict[int, float]] = {}
        for layer, i in places.items():
            raised = [[*base[:i], index, *base[i + 1 :]] for index in range(len(space.choices[i].values))]
            # Costs are additive over layers, so each width has a price of its own.
            prices = [budget.cost(space.plan(point)) - least for point in raised]
            costs[layer] = dict(zip(map(int, space.choices[i].values), prices, strict=True))
        room = (budget.limit - least) * (1 + ROUNDING)
        bits = project_bits(_errors(composition, budget, list(places)), costs, room)
        return space.plan(base).merge(Plan({layer: {KNOB: width} for layer, width in bits.items()}))


@torch.no_grad()
def _errors(composition: Composition, budget: Budget, layers: list[str]) -> dict[str, dict[int, float]]:
    """Return layer -> bits -> squared error of its weights."""
    values = {choice.layer: choice.values for choice in budget.space.choices if choice.knob == KNOB}
    found: dict[str, dict[int, float]] = {layer: {} for layer in layers}
    for bits in sorted({int(width) for widths in values.values() for width in widths}):
        able = [layer for layer in layers if bits in values[layer]]
        net = copy.deepcopy(composition.net)
        with isolated_rng():  # a quantizer may draw its first values
            composition.apply(net, Plan({layer: {KNOB: bits} for layer in able}))
        for layer in able:
            module, key = weight_place(net, layer)
            found[layer][bits] = float((getattr(module, key) - raw_weight(module, key)).double().square().sum())
    return found
