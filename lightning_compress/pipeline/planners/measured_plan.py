"""Make a plan smaller until the network that it gives was measured to meet its limits."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lightning import LightningModule

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.budget import Budget
from lightning_compress.core.costs.measured_cost import MeasuredCost
from lightning_compress.core.errors import CompressError, InfeasibleBudgetError
from lightning_compress.core.least_error import least_error
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.planners.limit import Resolved
from lightning_compress.pipeline.student import Student
from lightning_compress.search.budget_repair import scale
from lightning_compress.surgery.structure import network

TRIES = 12
MARGIN = 0.98  # of the estimate that a measurement asks for: estimates are rough


@dataclass(frozen=True)
class Met:
    """A plan, and what was measured of it for each limit."""

    plan: Plan
    values: tuple[float, ...]


def met(
    plan: Plan,
    budget: Budget,
    limits: Sequence[Resolved],
    composition: Composition,
    student: Student,
    run: RunContext,
    errors: Sequence[Sequence[float]] = (),
) -> Met:
    """Return the plan, or a smaller one, whose network meets the limits.

    Args:
        plan: that meets the budget by its estimate.
        budget: over the composition's space.
        limits: whose costs are measured.
        composition: the callbacks of the stage.
        student: the network before the plan; it is not changed.
        run: what the stages share.
        errors: of each value of each choice, by which a smaller plan is chosen; without, all choices shrink alike.

    Raises:
        InfeasibleBudgetError: no plan of the space meets a limit.
    """
    calibrated = copy.deepcopy(student.module).to(run.device)
    for callback in composition.callbacks:
        callback.calibrate(calibrated, run.data.train_dataloader())
    space = budget.space
    point = space.indices(plan) if len(space) else ()
    for _ in range(TRIES):
        plan = composition.resolve(space.plan(point))
        values = _measured(plan, limits, composition, calibrated)
        over = max(value / limit.most for value, limit in zip(values, limits, strict=True))
        if over <= 1:
            return Met(plan, values)
        try:
            tighter = replace(budget, limit=MARGIN * budget.cost(space.plan(point)) / over)
        except InfeasibleBudgetError:
            break
        point = least_error(errors, tighter) if errors else scale(tighter, point)
    value, limit = max(zip(values, limits, strict=True), key=lambda pair: pair[0] / pair[1].most)
    cost = limit.limit.cost
    raise InfeasibleBudgetError(
        f"{cost.name}: the smallest network that was tried takes {cost.text(value)}, and the limit is "
        f"{cost.text(limit.most)}; raise the budget, or allow smaller values in the search space"
    )


def _measured(
    plan: Plan, limits: Sequence[Resolved], composition: Composition, module: LightningModule
) -> tuple[float, ...]:
    net = copy.deepcopy(network(module))
    composition.apply(net, plan)
    found = []
    for limit in limits:
        if not isinstance(limit.limit.cost, MeasuredCost):
            raise CompressError(f"{limit.limit.cost.name} is not measured")
        found.append(limit.limit.cost.measure(net, composition.example))
    return tuple(found)
