"""The executor without parallelism: one plan after the other, in this process. The default."""

from __future__ import annotations

from collections import deque
from typing import final

from lightning_compress.plan import Plan
from lightning_compress.search.executor import Evaluate, Executor, Outcome, outcome_of


@final
class Serial(Executor):
    """Evaluates in this process. It has no time limit, and does not survive an evaluation that kills the process."""

    def __init__(self, evaluate: Evaluate) -> None:
        super().__init__(evaluate, workers=1)
        self._queue = deque[tuple[int, Plan]]()

    def submit(self, number: int, plan: Plan) -> None:
        self._queue.append((number, plan))

    def wait(self) -> list[tuple[int, Outcome]]:
        number, plan = self._queue.popleft()
        return [(number, outcome_of(self.evaluate, plan))]
