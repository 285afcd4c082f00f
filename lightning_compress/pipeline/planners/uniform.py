"""Uniform: the same numbers for every layer, without a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.errors import CompressError, did_you_mean
from lightning_compress.core.plan import Number, Plan
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.planners.planner import Planned, Planner
from lightning_compress.pipeline.student import Student


@final
@dataclass(frozen=True)
class Uniform(Planner):
    """Give every layer that has a knob the same number.

    Args:
        numbers: knob -> number. A stage takes those that its callbacks understand, so that the stages of a run can
            share them. Of the knobs of one callback some may fit no layer, as ``heads`` where there is no attention.
    """

    numbers: Mapping[str, Number] = field(default_factory=dict)

    @property
    def knobs(self) -> frozenset[str]:
        """The knobs that have a number."""
        return frozenset(self.numbers)

    def make_plan(self, composition: Composition, student: Student, run: RunContext, folder: Path) -> Planned:
        """Return the plan.

        Raises:
            CompressError: no number is for a callback of the stage, or no layer has the knob.
        """
        return self._planned(composition)

    def unmentioned(self, composition: Composition) -> Planned:
        """Return the same plan: nobody searches these numbers, so a plan file of other stages does not replace them."""
        return self._planned(composition) if self.numbers else super().unmentioned(composition)

    def _planned(self, composition: Composition) -> Planned:
        understood = frozenset().union(*(callback.knobs for callback in composition.callbacks))
        own = {knob: number for knob, number in self.numbers.items() if knob in understood}
        if not own:
            guess = did_you_mean(next(iter(self.numbers), ""), understood)
            raise CompressError(
                f"uniform: the numbers are {dict(self.numbers)}{guess}; give one for any of {sorted(understood)}, or "
                f"choose another planner (search, knapsack, from_file), or plan=FILE"
            )
        choices = composition.space().choices
        known = sorted({choice.knob for choice in choices})
        for callback in composition.callbacks:
            asked = [knob for knob in own if knob in callback.knobs]
            if asked and not set(asked) & set(known):
                raise CompressError(
                    f"uniform: no layer has the knob {asked[0]!r}{did_you_mean(asked[0], known)}; known: {known}"
                )
        layers: dict[str, dict[str, Number]] = {}
        for choice in choices:
            if choice.knob in own:
                layers.setdefault(choice.layer, {})[choice.knob] = own[choice.knob]
        numbers = ", ".join(f"{knob} {number}" for knob, number in own.items())
        return Planned(Plan(layers), f"the same for every layer, nothing was searched: {numbers}")
