"""Coded bits: the file's budget less all that is no code, as coded bits of each weight; no candidate is scored.

    coded_bits = 8 (limit - bytes of everything else in the file) / weights

The callback RateQuantization shares them out among layers by one price of a bit, and keeps to their sum in training.
Other callbacks of the stage get the largest of their values.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import final

import numpy as np

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.costs.packed_bytes import PackedBytes, Writer
from lightning_compress.core.errors import CompressError, InfeasibleBudgetError
from lightning_compress.core.packed_size import code_bytes, packed_bytes, weight_shape
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import LayerProfile
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.planners.budgeted import BudgetedPlanner
from lightning_compress.pipeline.planners.limit import Limit, Resolved
from lightning_compress.pipeline.planners.planner import Planned
from lightning_compress.pipeline.student import Student

KNOB = "coded_bits"
MOST = 8
DIGITS = 1e4  # bits of a plan are whole multiples of one over this


@final
@dataclass(frozen=True, kw_only=True)
class CodedBits(BudgetedPlanner):
    """Give all layers the coded bits that a packed file of the budget has room for."""

    def check(self, stage: str) -> None:
        """Raise also if the budget is not one of the packed file alone.

        Raises:
            CompressError: it is so.
        """
        super().check(stage)
        wrong = ""
        if self.limits:
            wrong = "there are other limits"
        elif not isinstance(self.cost, PackedBytes):
            wrong = f"the cost is {self.cost.name}"
        elif self.cost.coder is None:
            wrong = "the cost counts codes in fixed width"
        if wrong:
            raise CompressError(
                f"stage {stage}: CodedBits needs a budget of the packed file's bytes alone, and {wrong}; set "
                f"compress/cost=packed_bytes and compress/coder=range_coded, and leave limits empty"
            )

    def make_plan(self, composition: Composition, student: Student, run: RunContext, folder: Path) -> Planned:
        """Return the plan that uses the budget up.

        Raises:
            CompressError: no callback has coded bits.
            InfeasibleBudgetError: what is no code takes more than the budget.
        """
        stage = folder.name
        self.check(stage)
        choices = composition.space().choices
        layers = {choice.layer for choice in choices if choice.knob == KNOB}
        if not layers:
            raise CompressError(f"stage {stage}: no layer has {KNOB}; use CodedBits with RateQuantization")
        plan = Plan({})
        for choice in choices:
            plan = plan.merge(Plan({choice.layer: {choice.knob: choice.values[-1]}}))
        profile = composition.predict(plan)

        def others(layer: LayerProfile) -> int:
            return 0 if layer.name in layers else code_bytes(layer)

        limit = Resolved.of(Limit(self.cost, self.budget), run, composition)
        rest = packed_bytes(profile, others, self._coder.number_bytes)
        weights = sum(profile[name].weights for name in layers)
        least = rest + sum(self._least_stream(profile[name]) for name in layers)
        if limit.most < least:
            raise InfeasibleBudgetError(
                f"stage {stage}: the budget of {self.cost.text(limit.most)} cannot be met: scales, biases, the header "
                f"and all else that is not coded take {self.cost.text(rest)}; the smallest feasible one is "
                f"{self.cost.text(least)}. Raise the budget, or remove channels in a stage before"
            )
        bits = min(floor(DIGITS * 8 * (limit.most - rest) / weights) / DIGITS, MOST)
        found = plan.merge(Plan({name: {KNOB: max(bits, 1 / DIGITS)} for name in layers}))
        origin = (
            f"the file's budget of {self.cost.text(limit.most)} leaves {bits:g} coded bits for each of {weights:,} "
            f"weights, which layers share out by one price of a bit; no candidate was scored"
        )
        return Planned(found, origin, limit=self.limit)

    @property
    def _coder(self) -> Writer:
        """The coder of the file, which :meth:`check` has asked for."""
        assert isinstance(self.cost, PackedBytes)
        assert self.cost.coder is not None
        return self.cost.coder

    def _least_stream(self, layer: LayerProfile) -> int:
        """Return bytes of the codes of a layer when they are all alike."""
        return len(self._coder.write(np.zeros(layer.weights, np.uint8), 1, weight_shape(layer)))
