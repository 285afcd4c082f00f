"""Search: the best plan that a searcher finds under a budget, with baselines beside it.

The plan is the winner of the final choice (search/final_choice.py); search_run.py says what is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.settings import class_name
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.planners.planner import Planned
from lightning_compress.pipeline.planners.search_prior import make_prior
from lightning_compress.pipeline.planners.search_run import SearchRun
from lightning_compress.pipeline.planners.search_settings import SearchSettings
from lightning_compress.pipeline.student import Student


@final
@dataclass(frozen=True, kw_only=True)
class Search(SearchSettings):
    """The planner that searches with those settings."""

    def make_plan(self, composition: Composition, student: Student, run: RunContext, folder: Path) -> Planned:
        """Search, or go on with a search that was killed, and return the plan of the highest reward.

        Raises:
            CompressError: there is nothing to choose, or no candidate can be scored.
            InfeasibleBudgetError: no plan meets the budget.
        """
        budget = self.budget_for(composition, run, folder.name)
        self.check_starts(folder)
        evaluator = self.evaluator(composition, student, run)
        prior = make_prior(self, composition, budget, student, run, folder)
        plan = SearchRun(self, composition, budget, prior, evaluator, student, run, folder).best()
        baselines = ", ".join(self.used_baselines)
        beside = f"run beside it with as many trials: {baselines}" if baselines else "no baselines were run"
        return Planned(plan, f"the best that {class_name(self.searcher)} found; {beside}", limit=self.limit)
