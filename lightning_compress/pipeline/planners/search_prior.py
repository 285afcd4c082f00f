"""The prior: the plan of a closed form for a search, kept in the stage's folder for a search that goes on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.budget import Budget
from lightning_compress.core.errors import CompressError
from lightning_compress.core.json_record import read_record, write_record
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.planners.search_settings import SearchSettings
from lightning_compress.pipeline.student import Student
from lightning_compress.search.starts import STARTS

PRIOR = "prior.yaml"  # the plan, for who looks at the run
ERRORS = "prior_errors.json"  # the point, and the errors of each value of each choice, from which it was made


@dataclass(frozen=True)
class Prior:
    """The plan that a searcher may start from.

    Attributes:
        point: index of the value of each choice.
        errors: choice -> value -> error by the closed form, also where the point is another's; None where its planner
            measures none.
    """

    point: tuple[int, ...]
    errors: tuple[tuple[float, ...], ...] | None


def make_prior(
    settings: SearchSettings, composition: Composition, budget: Budget, student: Student, run: RunContext, folder: Path
) -> Prior | None:
    """Return the prior of a search, which a search that goes on reads from its folder; None where it has none.

    Raises:
        CompressError: the folder has that of a search over other choices.
    """
    if settings.prior is None or not len(budget.space):
        return None
    path, table = folder / PRIOR, folder / ERRORS
    space = budget.space.to_list()
    kept: dict[str, Any] = {}
    if (folder / STARTS).is_file() and table.is_file():
        kept = read_record(table)
        if kept.get("space") != space:
            raise CompressError(
                f"{path}: it is the prior of a search over other choices, of other layers or values. Choose another "
                f"run_dir, or go back to the old settings"
            )
    if "point" not in kept:
        planner = replace(settings.prior, cost=settings.cost, budget=settings.budget, limits=settings.limits)
        planned = planner.make_plan(composition, student, run, folder)
        point = budget.project(budget.space.indices(planned.plan))
        kept = {"space": space, "point": point, "errors": planned.errors}
        write_record(table, kept)
        planned.plan.save(path)
    errors = kept["errors"]
    return Prior(tuple(kept["point"]), None if errors is None else tuple(map(tuple, errors)))
