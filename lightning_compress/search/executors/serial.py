"""The executor without parallelism: one plan after the other, in this process. The default."""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import final

import torch
from typing_extensions import override

from lightning_compress.core.plan import Plan
from lightning_compress.search.executors.executor import Evaluate, Executor, Outcome, outcome_of
from lightning_compress.search.executors.pool import lost_or_raise


@final
class Serial(Executor):
    """Evaluates in this process. It has no time limit, and does not survive an evaluation that kills the process.

    A plan that runs out of memory fails, and what it held is freed for the next one.
    """

    def __init__(self, evaluate: Evaluate) -> None:
        super().__init__(evaluate, workers=1)
        self._queue = deque[tuple[int, Plan]]()

    @override
    def submit(self, number: int, plan: Plan) -> None:
        self._queue.append((number, plan))

    @override
    def wait(self) -> list[tuple[int, Outcome]]:
        number, plan = self._queue.popleft()
        began = perf_counter()
        try:
            return [(number, outcome_of(self.evaluate, plan))]
        except Exception as error:
            failure = lost_or_raise(error).reason
        torch.cuda.empty_cache()  # only here: the error, which is gone, held the frames and with them the tensors
        return [(number, Outcome(None, failure, perf_counter() - began))]
