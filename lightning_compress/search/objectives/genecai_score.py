"""GeneCAI's score: accuracy against cost, with a steep penalty under an accuracy that must be kept.

    log score = coeff saving - log(err)                     saving = 1 - cost / dense cost
    err = 1 + 100 max(accuracy_0 - acc, 0)  +  exp(100 (threshold - acc)) if acc < threshold

Source: GeneCAI (arXiv 2004.04249) as its authors' code has it (docs/papers.md), in log space: with coeff 100 the
score itself spans 40 orders of magnitude. One point of saving is worth a factor e; the first point of accuracy lost is
worth 0.7 points of saving, and each point under the threshold about one. Two changes: the code also penalizes a *gain*
of accuracy (an absolute value), here a gain costs nothing; and a plan that costs more than the dense network goes on
along the formula, where the code gives it a score of 0, whose logarithm no searcher can work with.

For a search with a budget that does not bind (1.0). The threshold is a soft one: a point of accuracy under it is worth
a point of saving, so where a point of accuracy buys several of cost, the best score lies far below. Look at the
accuracy of the winner, and use a budget with ``AccuracyUnderBudget`` where a limit must be met.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from typing import ClassVar, final

from typing_extensions import override

from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.errors import CompressError
from lightning_compress.search.objectives.objective import Objective, before, name_of, pick, words
from lightning_compress.search.trial import Score


@final
@dataclass(frozen=True)
class GeneCAIScore(Objective):
    """``coeff * saving - log(err)``.

    Args:
        metric: name in the score, of a share in [0, 1].
        cost: a cost, or the name of one.
        accuracy: of the network before the search, in [0, 1]; None takes it from the score.
        threshold: accuracy to keep, in [0, 1].
        coeff: worth of saving everything.
        dense_cost: what savings are shares of, in the unit of the cost; None takes the cost of the network before the
            search from the score.

    Raises:
        CompressError: accuracy or threshold is no share, or a dense cost is not above 0.
    """

    kind: ClassVar[str] = "genecai_score"

    metric: str = "val_acc"
    cost: Cost | str = "macs"
    accuracy: float | None = None
    threshold: float = 0.9
    coeff: float = 100.0
    dense_cost: float | None = None

    def __post_init__(self) -> None:
        for name, share in (("accuracy", self.accuracy), ("threshold", self.threshold)):
            if share is not None and not 0 <= share <= 1:
                raise CompressError(f"GeneCAIScore: {name} must be a share within 0 and 1, not percent; got {share}")
        if self.dense_cost is not None and not self.dense_cost > 0:
            raise CompressError(f"GeneCAIScore: dense_cost must be above 0, or null, got {self.dense_cost}")

    @property
    @override
    def costs(self) -> tuple[Cost | str, ...]:
        return (self.cost,)

    @property
    @override
    def meaning(self) -> str:
        return (
            f"{self.coeff:g} times the saved share of {words(name_of(self.cost))}, less the logarithm of a penalty for "
            f"lost accuracy, which is steep below {self.threshold:.0%}"
        )

    @override
    def __call__(self, score: Score) -> float:
        accuracy, cost = pick(score.metrics, self.metric), pick(score.costs, name_of(self.cost))
        dense_cost = before(score, name_of(self.cost), "dense_cost") if self.dense_cost is None else self.dense_cost
        dense_accuracy = before(score, self.metric, "accuracy") if self.accuracy is None else self.accuracy
        err = 1 + 100 * max(dense_accuracy - accuracy, 0.0)
        if accuracy < self.threshold:
            err += exp(100 * (self.threshold - accuracy))
        return self.coeff * (1 - cost / max(dense_cost, 1.0)) - log(err)
