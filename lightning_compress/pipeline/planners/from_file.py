"""FromFile: a plan that exists already, in a YAML file or in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.base.plans import as_plan
from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.planners.planner import Planned, Planner
from lightning_compress.pipeline.student import Student


@final
@dataclass(frozen=True)
class FromFile(Planner):
    """Take the part of a plan that the callbacks of the stage understand.

    Args:
        file: a YAML file that :meth:`Plan.save` wrote, a plan, or plain dicts ``{layer: {knob: number}}``.
        replaced: the planner in whose place the plan is used; it says what happens where the plan has no part for the
            stage. None changes nothing there.

    Raises:
        CompressError: the file is missing or holds no plan.
    """

    file: Plan | str | Path | Mapping[str, Any]
    replaced: Planner | None = None
    _plan: Plan = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_plan", as_plan(self.file))

    @property
    def costs(self) -> tuple[Cost, ...]:
        """The costs of the planner in whose place the plan is used: the plan may have been found under them."""
        return () if self.replaced is None else self.replaced.costs

    def make_plan(self, composition: Composition, student: Student, run: RunContext, folder: Path) -> Planned:
        """Return the part of the plan, or what the replaced planner makes of a plan without one."""
        part = composition.own(self._plan)
        # An empty plan says of every stage that nothing is changed.
        if not part.layers and self._plan.layers and self.replaced is not None:
            return self.replaced.unmentioned(composition)
        source = "given as a plan" if isinstance(self.file, Plan | Mapping) else f"read from {self.file}"
        return Planned(part, source)
