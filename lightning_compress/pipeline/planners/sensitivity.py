"""Sensitivity: lower one layer at a time, then spend the budget where it hurts least.

Source: paper 2 (Hu et al. 2018, arXiv 1805.11394), whose layer-by-layer pruning follows sensitivities. How they are
measured and become numbers is reconstructed: see search/sensitivity.py. It takes (values x choices) evaluations and
knows nothing of how layers act together; use Search where that counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.json_record import write_record
from lightning_compress.core.settings import settings_of
from lightning_compress.core.space import Space
from lightning_compress.pipeline.context import MEASURED, RunContext, check_least
from lightning_compress.pipeline.planners.planner import Planned
from lightning_compress.pipeline.planners.scoring import ScoringPlanner
from lightning_compress.pipeline.student import Student
from lightning_compress.search.journal import Entry, Journal
from lightning_compress.search.sensitivity import JOURNAL, allocate, measure
from lightning_compress.surgery.copies import clone


@final
@dataclass(frozen=True, kw_only=True)
class Sensitivity(ScoringPlanner):
    """Settings of the measurement.

    Attributes:
        values: of each layer's knob that are tried, below the largest.
    """

    values: int = 3

    def check(self, stage: str) -> None:
        """Raise also if no value is tried.

        Raises:
            CompressError: it is so.
        """
        super().check(stage)
        check_least(stage, values=(self.values, 1))

    def make_plan(self, composition: Composition, student: Student, run: RunContext, folder: Path) -> Planned:
        """Measure, or go on with a measurement that was killed; return the plan and its layers, least sensitive first.

        Raises:
            CompressError: there is nothing to choose, or the network cannot be scored without compression.
            InfeasibleBudgetError: no plan meets the budget.
        """
        budget = self.budget_for(composition, run, folder.name)
        space = budget.space
        # What is gathered on it must not reach the network that is trained, which changes layer by layer.
        probe = replace(student, module=clone(student.module))
        evaluator = self.evaluator(composition, probe, run)
        fingerprint = {
            "values": self.values,
            "objective": settings_of(self.objective),
            "limit": budget.limit,
            "cost": settings_of(self.cost),
            "limits": settings_of(self.limits),
            "space": space.to_list(),
            **evaluator.settings(),
        }
        with Journal(folder / JOURNAL, fingerprint) as journal:
            found = measure(space, evaluator, journal, self.objective, self.values)
            whole, *lowered = journal
        point = allocate(budget, found)
        robust_first = sorted(range(len(found)), key=lambda i: found[i].mean)
        self._write(robust_first, space, point, whole, lowered, folder=folder)
        count = 1 + len(lowered)
        evaluations = f"{count:,} evaluation{'' if count == 1 else 's'}"
        return Planned(
            space.plan(point),
            f"made from the sensitivity of each layer, which took {evaluations}",
            order=tuple(space.choices[i].layer for i in robust_first),
            limit=self.limit,
        )

    def _write(
        self,
        order: Sequence[int],
        space: Space,
        point: Sequence[int],
        whole: Entry,
        lowered: Sequence[Entry],
        *,
        folder: Path,
    ) -> None:
        """Write what the report shows of the measurement: each layer with its knob, what was tried, and what it got.

        Args:
            order: numbers of the choices, the least sensitive first.
            space: the choices.
            point: that was allocated.
            whole: the network as it came in.
            lowered: all others, each with one choice below its largest.
            folder: of the stage.
        """
        tried: list[list[tuple[float, float | None]]] = [[] for _ in space.choices]
        for entry in lowered:
            (i,) = [i for i, index in enumerate(entry.indices) if index != space.largest[i]]
            reward = None if entry.score is None else self.objective(entry.score)
            tried[i].append((space.choices[i].values[entry.indices[i]], reward))
        layers = [
            {
                "layer": space.choices[i].layer,
                "knob": space.choices[i].knob,
                "tried": tried[i],
                "chosen": space.choices[i].values[point[i]],
            }
            for i in order
        ]
        top = None if whole.score is None else self.objective(whole.score)
        write_record(folder / MEASURED, {"whole": top, "layers": layers})
