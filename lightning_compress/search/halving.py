"""Successive halving: score a batch at low fidelity, the best of it at higher ones, few in full.

    rung i:  the evaluator with a share s_i of its batches and steps;  the best share ``keep`` of a rung climbs on
    a plan that stays behind scores  what it scored there + mean over those that climbed of (their final - theirs there)

Source: Jamieson and Talwalkar 2016 (arXiv 1502.07943), with the rungs of Hyperband (Li et al. 2018, arXiv 1603.06560):
a third climbs, at three times the cost. The correction is ours: a search compares scores of different rungs, and fewer
steps or images give other scores. Rewards that are linear in the metrics, as AccuracyUnderBudget's, then have no plan
left behind above the best of those with a full score. Others may, such as N2NReward, in which a gain of accuracy counts
more for a small network: such a leader is scored in full too, until the best of a batch was. So the best plan of a
search was scored in full; that of a baseline may have its score from the search beside it.
A batch of b costs about b s_0 + b keep s_1 + ... + b keep^r full evaluations, plus such leaders, and plus what does not
shrink: applying the plan. It breaks where cheap scores rank at random: measure that with ``benchmarks/cheap_score.py``.

The score of a plan depends on the others of its batch that were not scored before. A search that is killed while a
finished batch is written down (a few milliseconds) scores the rest of that batch among themselves when it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from math import ceil
from statistics import fmean
from typing import ClassVar, Protocol, Self, cast, final

from lightning_compress.core.errors import CompressError, NoEffectError
from lightning_compress.core.plan import Plan
from lightning_compress.search.executors.executor import Evaluate, Executor, Outcome
from lightning_compress.search.executors.scores import checked
from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.trial import Score


class Scalable(Evaluate, Protocol):
    """An evaluator that can be made cheaper."""

    def cheaper(self, share: float) -> Self:
        """Return the same evaluator with that share of its data and steps."""


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

    def over(
        self, make: Callable[[Evaluate], Executor], objective: Objective, in_flight: int
    ) -> Callable[[Scalable], Executor]:
        """Return ``(evaluate) -> Executor``, which halves each batch.

        Args:
            make: ``(evaluate) -> Executor`` that evaluates the plans of all rungs.
            objective: score -> what plans are ranked by.
            in_flight: of the search, that is, plans of a batch.

        Raises:
            NoEffectError: a batch is so small that all its plans climb.
        """
        if ceil(in_flight * self.keep) == in_flight:
            least = next(size for size in count(2) if ceil(size * self.keep) < size)
            raise NoEffectError(
                f"halving: with in_flight={in_flight} and keep={self.keep:g} no plan would stay behind, and all be "
                f"scored in full; set the stage's in_flight to {max(least, round(self.keep ** -len(self.shares)))}"
            )
        return lambda evaluate: _Climb(evaluate, self, make, objective)


@dataclass(frozen=True)
class _Step:
    """A plan on a rung."""

    plan: Plan
    level: int


class _Ladder:
    """The evaluators of all rungs as one, so that one pool of workers serves them all.

    Args:
        evaluate: of the top rung. Only it is sent to workers, which make the others of it.
        shares: of the rungs below.
    """

    def __init__(self, evaluate: Scalable, shares: tuple[float, ...]) -> None:
        self.shares, self.rungs = shares, [*(evaluate.cheaper(share) for share in shares), evaluate]

    def __reduce__(self) -> tuple[type[_Ladder], tuple[Scalable, tuple[float, ...]]]:
        return _Ladder, (self.rungs[-1], self.shares)

    def key(self, step: _Step) -> str:
        """Return the key of a plan, which is the same on all rungs."""
        return self.rungs[-1].key(step.plan)

    def __call__(self, step: _Step) -> Score:
        return self.rungs[step.level](step.plan)


class _Climb(Executor):
    """Evaluates batches on rising rungs."""

    compares: ClassVar[bool] = True

    def __init__(
        self, evaluate: Scalable, halving: Halving, make: Callable[[Evaluate], Executor], objective: Objective
    ) -> None:
        self.pool = make(cast(Evaluate, _Ladder(evaluate, halving.shares)))
        super().__init__(evaluate, self.pool.workers)
        self.top, self.keep, self.objective = len(halving.shares), halving.keep, objective
        self._batch: dict[int, Plan] = {}

    def submit(self, number: int, plan: Plan) -> None:
        self._batch[number] = plan

    def wait(self) -> list[tuple[int, Outcome]]:
        batch, self._batch = self._batch, {}
        found, whole = self._climb(batch, 0)
        while (leader := self._leader(found)) is not None and leader not in whole:
            found |= _later(found, self._run({leader: batch[leader]}, self.top))
            whole.add(leader)
        return sorted(found.items())  # all at once: a batch that is killed is scored again whole

    def close(self) -> None:
        self.pool.close()

    def _run(self, plans: Mapping[int, Plan], level: int) -> dict[int, Outcome]:
        steps = {number: cast(Plan, _Step(plan, level)) for number, plan in plans.items()}  # read by _Ladder alone
        return {number: checked(outcome, self.objective) for number, outcome in self.pool.run(steps)}

    def _leader(self, found: Mapping[int, Outcome]) -> int | None:
        """Return the number of the highest reward, as the search has it: the first of equals; None if all failed."""
        scores = {
            n: outcome.score
            for n, outcome in found.items()
            if outcome.score is not None and checked(outcome, self.objective).score is not None
        }
        return min(scores, key=lambda number: (-self.objective(scores[number]), number), default=None)

    def _climb(self, plans: Mapping[int, Plan], level: int) -> tuple[dict[int, Outcome], set[int]]:
        """Return all outcomes in the scale of the full evaluation, and the numbers of the plans that had it."""
        if level == self.top:
            return self._run(plans, level), set(plans)
        if ceil(len(plans) * self.keep) == len(plans):
            return self._climb(plans, level + 1)  # none would stay behind
        found = self._run(plans, level)
        scores = {number: outcome.score for number, outcome in found.items() if outcome.score is not None}
        waiting = sorted(scores, key=lambda number: (-self.objective(scores[number]), number))
        many = ceil(len(waiting) * self.keep)
        above: dict[int, Outcome] = {}
        whole: set[int] = set()
        while waiting and all(outcome.score is None for outcome in above.values()):  # fewer steps may hide a failure
            climbed, full = self._climb({number: plans[number] for number in waiting[:many]}, level + 1)
            above, whole, waiting = above | climbed, whole | full, waiting[many:]
        lifts = _lifts({n: (scores[n], outcome.score) for n, outcome in above.items() if outcome.score is not None})
        behind = {
            number: outcome if outcome.score is None else replace(outcome, score=_lifted(outcome.score, lifts))
            for number, outcome in found.items()
            if number not in above
        }
        return {**behind, **_later(found, above)}, whole


def _later(found: Mapping[int, Outcome], above: Mapping[int, Outcome]) -> dict[int, Outcome]:
    """Return the outcomes of later rungs, with the seconds that both took."""
    return {n: replace(outcome, seconds=found[n].seconds + outcome.seconds) for n, outcome in above.items()}


def _lifts(pairs: Mapping[int, tuple[Score, Score]]) -> dict[str, float]:
    """Return each metric's mean change from a low-fidelity to a high-fidelity score."""
    names = {name for low, high in pairs.values() for name in low.metrics.keys() & high.metrics.keys()}
    return {
        name: fmean(high.metrics[name] - low.metrics[name] for low, high in pairs.values()) for name in sorted(names)
    }


def _lifted(score: Score, lifts: Mapping[str, float]) -> Score:
    return replace(score, metrics={name: value + lifts.get(name, 0.0) for name, value in score.metrics.items()})
