"""Starts: the plans that need no search are scored first, and the search starts from the better one.

The closed form is better than the largest uniform plan on some networks, and worse on others
(benchmarks/results/search_real.txt). One score tells which; the baselines need that of the uniform plan anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lightning_compress.core.space import Space
from lightning_compress.search.executors.executor import Evaluate, Executor
from lightning_compress.search.executors.serial import Serial
from lightning_compress.search.journal import Entry, Journal
from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.second_scores import score_again

STARTS = "starts.sqlite"  # journal of their scores, beside that of the search
CLOSED_FORM, UNIFORM = "closed form", "uniform plan"  # what a report calls them


def scored_starts(
    points: Mapping[str, tuple[int, ...]],
    space: Space,
    objective: Objective,
    evaluate: Evaluate,
    journal: Journal,
    executor: Callable[[Evaluate], Executor] = Serial,
) -> dict[str, Entry]:
    """Return the entries of plans by their names, those that failed too; plans of one network are scored once.

    Args:
        points: name -> index of the value of each choice.
        space: of the search.
        objective: score -> reward.
        evaluate: scores plans.
        journal: of these scores alone.
        executor: ``(evaluate) -> Executor``: where plans are scored.
    """
    keys = {name: evaluate.key(space.plan(point)) for name, point in points.items()}
    entries: dict[str, Entry] = {}
    for number, (name, point) in enumerate(points.items()):
        entries.setdefault(keys[name], Entry(number, point, keys[name], None, None, 0.0))
    score_again(entries.values(), space, objective, evaluate, journal, executor, title="Starts")
    scored = {entry.key: entry for entry in journal}
    return {name: scored[key] for name, key in keys.items()}
