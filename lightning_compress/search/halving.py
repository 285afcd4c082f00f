"""Successive halving: all plans of a batch get a cheap score, the best of them a dearer one, few the full one.

    rung i:  the evaluator with a share s_i of its batches and steps;  the best share ``keep`` of a rung climbs on
    a plan that stays behind scores  what it scored there + mean over those that climbed of (their final - theirs there)

Source: Jamieson and Talwalkar 2016 (arXiv 1502.07943), with the rungs of Hyperband (Li et al. 2018, arXiv 1603.06560):
a third climbs, at three times the cost. The correction is ours: a search compares scores of different rungs, and fewer
steps or images give other scores. Rewards that are linear in the metrics, as AccuracyUnderBudget's, then have no plan
left behind above the best of those with a full score, in any batch, so the best plan of a search was scored in full.
A batch of b costs about b s_0 + b keep s_1 + ... + b keep^r full evaluations, plus what does not shrink: applying the
plan. It breaks where cheap scores rank at random: measure that with ``benchmarks/cheap_score.py``.

The score of a plan depends on the others of its batch that were not scored before. A search that is killed while a
finished batch is written down (a few milliseconds) scores the rest of that batch among themselves when it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import ceil
from statistics import fmean
from typing import ClassVar, Protocol, Self, final

from lightning_compress.errors import CompressError
from lightning_compress.plan import Plan
from lightning_compress.search.executor import Evaluate, Executor, Outcome
from lightning_compress.search.objective import Objective
from lightning_compress.search.trial import Score


class Scalable(Evaluate, Protocol):
    """An evaluator that can be made cheaper."""

    def cheaper(self, share: float) -> Self:
        """The same with that share of its data and steps."""


@final
@dataclass(frozen=True)
class Halving:
    """Settings.

    Args:
        shares: of the rungs below the full evaluation, rising, in (0, 1).
        keep: share of the plans of a rung that climb to the next, rounded up, in (0, 1).

    Raises:
        CompressError: a share is out of range or out of order.
    """

    shares: tuple[float, ...] = (1 / 9, 1 / 3)
    keep: float = 1 / 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", tuple(self.shares))
        if not (0 < self.keep < 1 and self.shares and all(0 < share < 1 for share in self.shares)):
            raise CompressError(f"halving: shares and keep must be between 0 and 1, got {self.shares} and {self.keep}")
        if list(self.shares) != sorted(set(self.shares)):
            raise CompressError(f"halving: shares must rise from rung to rung, got {self.shares}")

    def over(self, make: Callable[[Evaluate], Executor], objective: Objective) -> Callable[[Scalable], Executor]:
        """``(evaluate) -> Executor`` that halves each batch.

        Args:
            make: ``(evaluate) -> Executor`` that evaluates the plans of one rung; each rung has its own.
            objective: score -> what plans are ranked by.
        """
        return lambda evaluate: _Rungs(evaluate, self, make, objective)


class _Rungs(Executor):
    """Evaluates batches on rising rungs."""

    compares: ClassVar[bool] = True

    def __init__(
        self, evaluate: Scalable, halving: Halving, make: Callable[[Evaluate], Executor], objective: Objective
    ) -> None:
        evaluators = [*(evaluate.cheaper(share) for share in halving.shares), evaluate]
        self.rungs = [make(evaluator) for evaluator in evaluators]
        super().__init__(evaluate, max(rung.workers for rung in self.rungs))
        self.keep, self.objective = halving.keep, objective
        self._batch: dict[int, Plan] = {}

    def submit(self, number: int, plan: Plan) -> None:
        self._batch[number] = plan

    def wait(self) -> list[tuple[int, Outcome]]:
        batch, self._batch = self._batch, {}
        return sorted(self._climb(batch, 0).items())  # all at once: a batch that is killed is scored again whole

    def close(self) -> None:
        for rung in self.rungs:
            rung.close()

    def _climb(self, plans: Mapping[int, Plan], level: int) -> dict[int, Outcome]:
        """Outcomes of all plans in the scale of the full evaluation."""
        if level == len(self.rungs) - 1:
            return dict(self.rungs[level].run(plans))
        if ceil(len(plans) * self.keep) == len(plans):
            return self._climb(plans, level + 1)  # none would stay behind
        found = dict(self.rungs[level].run(plans))
        scores = {number: outcome.score for number, outcome in found.items() if outcome.score is not None}
        waiting = sorted(scores, key=lambda number: (-self.objective(scores[number]), number))
        count, above = ceil(len(waiting) * self.keep), {}
        while waiting and all(outcome.score is None for outcome in above.values()):  # fewer steps may hide a failure
            above |= self._climb({number: plans[number] for number in waiting[:count]}, level + 1)
            waiting = waiting[count:]
        lifts = _lifts({n: (scores[n], outcome.score) for n, outcome in above.items() if outcome.score is not None})
        for number, outcome in found.items():
            if number in above:
                found[number] = replace(above[number], seconds=outcome.seconds + above[number].seconds)
            elif outcome.score is not None:
                found[number] = replace(outcome, score=_lifted(outcome.score, lifts))
        return found


def _lifts(pairs: Mapping[int, tuple[Score, Score]]) -> dict[str, float]:
    """Metric -> its mean change from a cheap to a dear score."""
    names = {name for cheap, dear in pairs.values() for name in cheap.metrics.keys() & dear.metrics.keys()}
    return {
        name: fmean(dear.metrics[name] - cheap.metrics[name] for cheap, dear in pairs.values())
        for name in sorted(names)
    }


def _lifted(score: Score, lifts: Mapping[str, float]) -> Score:
    return replace(score, metrics={name: value + lifts.get(name, 0.0) for name, value in score.metrics.items()})
