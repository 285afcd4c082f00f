"""Correct a plan until the network that it gives was measured to meet its limits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lightning import LightningModule

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.budget import Budget
from lightning_compress.core.costs.measured_cost import MeasuredCost
from lightning_compress.core.errors import InfeasibleBudgetError
from lightning_compress.core.least_error import least_error
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import Profile
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.planners.limit import Resolved
from lightning_compress.pipeline.student import Student
from lightning_compress.search.budget_repair import scale
from lightning_compress.surgery.structure import network

TRIES = 12
MARGIN = 0.98  # of the limit that is asked for after a plan was above it: estimates are rough


@dataclass(frozen=True)
class Met:
    """A plan, and what was measured of it for each limit whose cost is measured."""

    plan: Plan
    values: tuple[float, ...]


def met(
    plan: Plan,
    limits: Sequence[Resolved],
    budget_of: Callable[[Sequence[Resolved]], Budget],
    composition: Composition,
    student: Student,
    run: RunContext,
    errors: Sequence[Sequence[float]] = (),
) -> Met:
    """Return the plan, or another one, whose network meets the limits.

    Each measurement corrects the estimate of its own cost; other limits stay, so that a plan that takes too much memory
    does not lose flash. With ``errors`` the plan of the least error is chosen anew by the corrected estimates, larger
    ones too, until one comes again, and the best that was measured to fit is taken. Without, the plan shrinks until it
    fits.

    Args:
        plan: that meets the limits by their estimates.
        limits: all of them; those whose costs are measured are asked.
        budget_of: limits -> the budget over the composition's space.
        composition: the callbacks of the stage.
        student: the network before the plan; it is not changed.
        run: what the stages share.
        errors: of each value of each choice.

    Raises:
        InfeasibleBudgetError: no plan of the space meets a limit.
    """
    calibrated = copy.deepcopy(student.module).to(run.device)
    for callback in composition.callbacks:
        callback.calibrate(calibrated, run.data.train_dataloader())
    space = composition.space()
    point = space.indices(plan) if len(space) else ()
    tried: set[tuple[int, ...]] = set()
    fitting: list[tuple[float, Met]] = []
    while point not in tried and len(tried) < TRIES:
        tried.add(point)
        plan = composition.resolve(space.plan(point))
        seen = _measured(plan, limits, composition, calibrated)
        if all(value <= limit.most for limit, value in seen):
            found = Met(plan, tuple(value for limit, value in seen if limit.limit.is_measured))
            if not errors:
                return found
            fitting.append((sum(e[i] for e, i in zip(errors, point, strict=True)), found))
        profile = composition.predict(space.plan(point))
        limits = [_corrected(limit, value, profile) for limit, value in seen]
        try:
            budget = budget_of(limits)
        except InfeasibleBudgetError:
            break
        point = least_error(errors, budget) if errors else scale(budget, point)
    if fitting:
        return min(fitting, key=lambda pair: pair[0])[1]
    limit, value = max(seen, key=lambda pair: pair[1] / pair[0].most)
    cost = limit.limit.cost
    raise InfeasibleBudgetError(
        f"{cost.name}: the smallest network that was tried takes {cost.text(value)}, and the limit is "
        f"{cost.text(limit.most)}; raise the budget, or allow smaller values in the search space"
    )


def _corrected(limit: Resolved, value: float, profile: Profile) -> Resolved:
    """Return the limit with the estimate of its cost as it was measured."""
    if not limit.limit.is_measured:
        return limit
    return limit.scaled(profile, value if value <= limit.most else value / MARGIN)


def _measured(
    plan: Plan, limits: Sequence[Resolved], composition: Composition, module: LightningModule
) -> list[tuple[Resolved, float]]:
    """Return the limits with what was measured of a plan, and 0 where the planner has met an exact cost already."""
    net = copy.deepcopy(network(module))
    composition.apply(net, plan)
    costs = [limit.limit.cost for limit in limits]
    values = [cost.measure(net, composition.example) if isinstance(cost, MeasuredCost) else 0.0 for cost in costs]
    return list(zip(limits, values, strict=True))
