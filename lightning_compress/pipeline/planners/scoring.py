"""Base class of planners that score candidates."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from typing_extensions import override

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.errors import CompressError, did_you_mean
from lightning_compress.core.profile import Profile
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.evaluation import Evaluation
from lightning_compress.pipeline.evaluator import Evaluator
from lightning_compress.pipeline.needed_costs import needed_costs
from lightning_compress.pipeline.planners.budgeted import BudgetedPlanner
from lightning_compress.pipeline.student import Student
from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.trial import Score


@dataclass(frozen=True, kw_only=True)
class ScoringPlanner(BudgetedPlanner, ABC):
    """Makes a plan from the scores of candidates.

    Attributes:
        objective: score -> reward.
        evaluation: how candidates are scored.
    """

    objective: Objective
    evaluation: Evaluation = field(default_factory=Evaluation)

    @property
    @override
    def costs(self) -> tuple[Cost, ...]:
        """The costs of the budget, of the objective and of other limits, which scores have too."""
        if self.cost is None or self.objective is None:
            return super().costs
        return (*needed_costs(self.cost, self.objective), *(limit.cost for limit in self.limits.values()))

    def check(self, stage: str) -> None:
        """Raise also if there is no objective, or a number of the evaluation is too small.

        Raises:
            CompressError: it is so.
        """
        super().check(stage)
        if self.objective is None:
            raise CompressError(f"stage {stage}: objective is null, which a search needs; give it one")
        self.evaluation.check(stage)

    @property
    @override
    def reads_scores(self) -> bool:
        return True

    def check_metrics(self, stage: str, logged: Mapping[str, float], dense: Profile) -> None:
        """Raise if the monitor, or a metric of the objective, is not logged.

        Raises:
            CompressError: it is so.
        """
        monitor = self.evaluation.monitor
        if monitor not in logged:
            raise CompressError(
                f"stage {stage}: validation_step logs {sorted(logged)}, not {monitor!r}"
                f"{did_you_mean(monitor, logged)}; set monitor to one of them"
            )
        # Names alone are tried: what one batch of data measures says nothing yet.
        costs = {cost.name: float(cost(dense)) for cost in self.costs}
        metrics = dict.fromkeys(logged, 1.0)
        self.objective(Score(metrics, costs, {**metrics, **costs}))

    def evaluator(self, composition: Composition, student: Student, run: RunContext) -> Evaluator:
        """Return the evaluator of the candidates; its scores have the costs of the budget and of the objective.

        Args:
            composition: the callbacks that candidates get.
            student: candidates are copies of its module, which is calibrated for the callbacks.
            run: what the stages of the run share.

        Raises:
            CompressError: a metric of the network as it is is not finite.
        """
        made = self.evaluation.evaluator(composition, student, run, self.costs)
        broken = {name: value for name, value in made.before.items() if not isfinite(value)}
        if broken:
            raise CompressError(
                f"search: before anything is compressed, the network has {broken} on the validation data, so nothing "
                f"can be compared with it; check its weights, validation_step and the data"
            )
        return made
