"""A searcher: random points halfway between the best so far and a point drawn at random."""

from __future__ import annotations

from math import inf
from typing import final

import numpy as np

from lightning_compress.search.searchers.searcher import Searcher
from lightning_compress.search.trial import Trial


@final
class HalvingWalk(Searcher):
    """Keeps the best point and the reward that it got."""

    kind = "acme_halving_walk"
    best: tuple[int, ...] | None = None
    reward = -inf

    def propose(self, number: int) -> tuple[int, ...]:
        if number == 0:
            return self.problem.start
        sizes = [len(choice.values) for choice in self.problem.space.choices]
        drawn = [int(i) for i in np.random.randint(0, sizes)] if sizes else []
        start = drawn if self.best is None else self.best
        return self.problem.budget.project([(a + b) // 2 for a, b in zip(drawn, start, strict=True)])

    def learn(self, trial: Trial, reward: float | None) -> None:
        if reward is not None and reward > self.reward:
            self.best, self.reward = trial.indices, reward
