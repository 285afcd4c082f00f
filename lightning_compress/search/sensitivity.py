"""Sensitivity: what the reward loses when one choice alone is lowered, and values for all choices made from that.

    drop_l(v) = R(all at their largest) - R(choice l at v, the others at their largest)
    choice l takes its smallest value with  drop_l(v) <= t;   t: the smallest threshold that meets the budget

Sources: Hu et al. 2018 (paper 2, arXiv 1805.11394) prunes layers "according to their sensitivity"; how it measures that
and sets the rates was not available, and a reader's notes say that the rates were set by hand. So all of it here is
ours: a few values for each choice, straight lines between them, no gain from lowering a choice (noise), one threshold
for all choices (as Li et al. 2017, arXiv 1608.08710, section 3.3, choose by eye), then the most hurt choice raised step
by step while the budget allows. Use it for one-off allocations: it takes (values x choices) evaluations and knows
nothing of how choices act together, which a search finds out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_compress.core.budget import Budget
from lightning_compress.core.errors import CompressError
from lightning_compress.core.space import Space
from lightning_compress.search.executors.executor import Evaluate
from lightning_compress.search.executors.scores import checked
from lightning_compress.search.executors.serial import Serial
from lightning_compress.search.journal import Entry, Journal
from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.progress_bar import progress_bar

JOURNAL = "sensitivity.sqlite"  # in the folder of a stage
TILT = 1e-3  # reward that lowering a choice all the way costs at least: where nothing is lost, all are lowered alike


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivity of one choice.

    Attributes:
        layer: of the choice.
        drops: reward lost at each of its values; never rising along them, 0 at the last, infinite where it failed.
    """

    layer: str
    drops: tuple[float, ...]

    @property
    def mean(self) -> float:
        """One number for the whole curve: the mean over its values."""
        return float(np.mean(self.drops))


def measure(
    space: Space, evaluate: Evaluate, journal: Journal, objective: Objective, values: int = 3
) -> list[Sensitivity]:
    """Return sensitivities of all choices of a space; what the journal knows already is not evaluated again.

    Args:
        space: the choices.
        evaluate: scores plans.
        journal: of this measurement.
        objective: score -> reward.
        values: of each choice that are evaluated, evenly spread from the smallest; the others lie on straight lines.

    Raises:
        CompressError: ``values`` is below 1, or the network without any compression cannot be scored.
    """
    if values < 1:
        raise CompressError(f"sensitivity: values must be 1 or more, got {values}")
    tested = [_spread(largest, values) for largest in space.largest]
    points = [space.largest] + [
        (*space.largest[:i], index, *space.largest[i + 1 :]) for i, found in enumerate(tested) for index in found
    ]
    finished = {entry.number: entry for entry in journal}
    with progress_bar() as bar:
        task = bar.add_task("sensitivity", total=len(points), completed=len(finished), note="")
        for number, point in enumerate(points):
            if number not in finished:
                finished[number] = _evaluated(number, point, space, evaluate, objective)
                journal.append(finished[number])
                bar.update(task, advance=1)
    whole = finished[0].score
    if whole is None:
        raise CompressError(f"sensitivity: the network as it is cannot be scored: {finished[0].failure}")
    top = objective(whole)
    scores = [finished[n].score for n in range(1, len(points))]
    drops = [float("inf") if score is None else top - objective(score) for score in scores]
    found, start = [], 0
    for choice, indices in zip(space.choices, tested, strict=True):
        known = [*drops[start : start + len(indices)], 0.0]
        found.append(Sensitivity(choice.layer, _curve([*indices, len(choice.values) - 1], known)))
        start += len(indices)
    return found


def allocate(budget: Budget, sensitivities: Sequence[Sensitivity]) -> tuple[int, ...]:
    """Return a maximal point within the budget: any step up of any choice would break it.

    Args:
        budget: its space has the choices that were measured, in the same order.
        sensitivities: one for each choice.
    """
    curves = [_tilted(s.drops) for s in sensitivities]
    thresholds = sorted({drop for curve in curves for drop in curve})

    def at(threshold: float) -> tuple[int, ...]:
        return tuple(int(np.argmax(np.asarray(curve) <= threshold)) for curve in curves)

    low, high = -1, len(thresholds) - 1  # at the highest threshold all choices are at their smallest, which fits
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if budget.meets(budget.space.plan(at(thresholds[middle]))) else (middle, high)
    point = at(thresholds[high]) if thresholds else ()
    able = {i for i, index in enumerate(point) if index < budget.space.largest[i]}
    while able:
        worst = max(able, key=lambda i: (curves[i][point[i]], -i))
        raised = (*point[:worst], point[worst] + 1, *point[worst + 1 :])
        fits = budget.meets(budget.space.plan(raised))
        point = raised if fits else point
        if not fits or point[worst] == budget.space.largest[worst]:
            able.remove(worst)  # what does not fit now fits no better later: the cost only grows
    return point


def _spread(largest: int, values: int) -> list[int]:
    """Return up to ``values`` indices below the largest one."""
    return sorted({round(i * largest / values) for i in range(values)} - {largest})


def _evaluated(number: int, point: tuple[int, ...], space: Space, evaluate: Evaluate, objective: Objective) -> Entry:
    plan = space.plan(point)
    ((_, found),) = Serial(evaluate).run({number: plan})
    outcome, key = checked(found, objective), evaluate.key(plan)
    return Entry(number, point, key, outcome.score, outcome.failure, outcome.seconds)


def _curve(indices: Sequence[int], drops: Sequence[float]) -> tuple[float, ...]:
    """Return drops at all indices, from those at some, which end with the largest."""
    rising = np.maximum.accumulate(np.asarray(drops)[::-1])[::-1]  # less of a choice never helps, but for noise
    between = np.interp(np.arange(indices[-1] + 1), indices, np.where(np.isinf(rising), 0.0, rising))
    between[: int(np.max(np.asarray(indices)[np.isinf(rising)], initial=-1)) + 1] = np.inf
    return tuple(float(drop) for drop in np.maximum.accumulate(between[::-1])[::-1])


def _tilted(drops: Sequence[float]) -> list[float]:
    last = max(len(drops) - 1, 1)
    return [drop + TILT * (1 - i / last) for i, drop in enumerate(drops)]
