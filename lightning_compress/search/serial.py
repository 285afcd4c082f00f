"""The executor without parallelism: one plan after the other, in this process. The default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import final

from lightning_compress.plan import Plan
from lightning_compress.search.executor import Evaluate, Executor, Outcome, outcome_of


@final
class Serial(Executor):
    """Evaluates in this process. It has no time limit, and does not survive an evaluation that kills the process."""

    def __init__(self, evaluate: Evaluate) -> None:
        super().__init__(evaluate, workers=1)

    def run(self, plans: Mapping[int, Plan]) -> Iterator[tuple[int, Outcome]]:
        for number, plan in plans.items():
            yield number, outcome_of(self.evaluate, plan)
