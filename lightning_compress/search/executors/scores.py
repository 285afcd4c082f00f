"""Check the outcome of an evaluation before a searcher is told of it."""

from __future__ import annotations

from math import isfinite

from lightning_compress.search.executors.executor import Outcome
from lightning_compress.search.objectives.objective import Objective


def checked(outcome: Outcome, objective: Objective) -> Outcome:
    """Return the outcome, or a failure if its score or reward is not finite."""
    if outcome.score is None:
        return outcome
    values = {**outcome.score.metrics, **outcome.score.costs}
    broken = [f"{name} is {value}" for name, value in values.items() if not isfinite(value)]
    if not broken and not isfinite(reward := objective(outcome.score)):
        broken = [f"the reward is {reward}"]
    return Outcome(None, f"the score is not finite: {', '.join(broken)}", outcome.seconds) if broken else outcome
