"""The uniform policy: the same level for every choice, as high as the budget allows; no search at all.

    index of choice i = bin of u in its values, the same u for all, the largest that fits

The first proposal is that plan. Further ones hand out what the budget has left, one step at a time, over the choices in
a random order: at equal numbers of evaluations the baseline then uses its evaluations too.
"""

from __future__ import annotations

from typing import final

import numpy as np
from typing_extensions import override

from lightning_compress.search.searchers.searcher import Searcher
from lightning_compress.search.trial import Trial


@final
class Uniform(Searcher):
    """One level for all."""

    @override
    def propose(self, number: int) -> tuple[int, ...]:
        if number == 0:
            return self.problem.start
        return self._filled(self.problem.budget.at_level(self.problem.budget.level()))

    def learn(self, trial: Trial, reward: float | None) -> None:
        """Learn nothing."""

    def _filled(self, indices: tuple[int, ...]) -> tuple[int, ...]:
        space, budget = self.problem.space, self.problem.budget
        for i in np.random.permutation(len(indices)):
            raised = (*indices[:i], indices[i] + 1, *indices[i + 1 :])
            if raised[i] < len(space.choices[i].values) and budget.meets(space.plan(raised)):
                indices = raised
        return indices
