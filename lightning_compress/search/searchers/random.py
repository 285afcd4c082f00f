"""Random search: every choice drawn uniformly, then projected onto the budget. The baseline that others must beat."""

from __future__ import annotations

from typing import final

import numpy as np
from typing_extensions import override

from lightning_compress.search.searchers.searcher import Searcher
from lightning_compress.search.trial import Trial


@final
class Random(Searcher):
    """Uniform over the space before the projection. Source: Bergstra and Bengio 2012 (JMLR 13)."""

    @override
    def propose(self, number: int) -> tuple[int, ...]:
        if number == 0 and self.problem.prior is not None:
            return self.problem.start
        sizes = [len(choice.values) for choice in self.problem.space.choices]
        return self.problem.budget.project([int(i) for i in np.random.randint(0, sizes)] if sizes else [])

    def learn(self, trial: Trial, reward: float | None) -> None:
        """Learn nothing."""
