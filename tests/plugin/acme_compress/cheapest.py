"""A planner: the cheapest plan that the callbacks allow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.planners.planner import Planned, Planner
from lightning_compress.pipeline.student import Student


@final
@dataclass(frozen=True)
class Cheapest(Planner):
    """Takes the smallest value of each knob."""

    kind = "acme_cheapest"

    def make_plan(self, composition: Composition, student: Student, run: RunContext, folder: Path) -> Planned:
        space = composition.space()
        return Planned(space.plan(space.smallest), "the cheapest that the callbacks allow")
