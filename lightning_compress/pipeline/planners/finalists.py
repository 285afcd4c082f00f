"""The best few plans of a search with the scores that decide between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from lightning_compress.pipeline.evaluator import Evaluator
from lightning_compress.search.journal import Entry
from lightning_compress.search.objectives.objective import Objective


@final
@dataclass(frozen=True)
class Finalists:
    """The comparison of the best few plans.

    Attributes:
        ranked: their trials with the scores that decide, from the highest reward down.
        evaluator: of these scores.
        again: whether they are other scores than those of the search.
    """

    ranked: Sequence[Entry]
    evaluator: Evaluator
    again: bool

    @property
    def best(self) -> Entry:
        """The trial that is chosen."""
        return self.ranked[0]

    def to_dict(self, objective: Objective) -> dict[str, Any]:
        """Return plain data for the report."""
        return {
            "again": self.again,
            "finetune_steps": self.evaluator.finetune_steps,
            "validation_samples": self.evaluator.samples,
            "trials": [
                {"trial": entry.number, "reward": objective(entry.score), "metrics": dict(entry.score.metrics)}
                for entry in self.ranked
                if entry.score is not None  # all have one
            ],
        }
