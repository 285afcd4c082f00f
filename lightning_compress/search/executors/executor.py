"""Executors: where plans are evaluated. In this process, in others beside it, or on a cluster.

An executor is made for one evaluator. It takes plans at any time, and gives back outcomes in any order; what a search
finds does not depend on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar, Protocol, Self, final

from lightning_compress.core.errors import CompressError, TrialFailedError
from lightning_compress.core.kinds import HasKind
from lightning_compress.core.plan import Plan
from lightning_compress.search.trial import Score


class Evaluate(Protocol):
    """Interface of evaluators that a search uses."""

    def key(self, plan: Plan) -> str:
        """Return digest of what the plan materializes to."""

    def __call__(self, plan: Plan) -> Score:
        """Return the score, or :class:`TrialFailedError`."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of evaluating one plan.

    Attributes:
        score: None when it failed.
        failure: why it failed, or None.
        seconds: that the evaluation took.
    """

    score: Score | None
    failure: str | None
    seconds: float


class Executor(HasKind, ABC):
    """Evaluates plans, ``workers`` at a time; a context manager.

    Args:
        evaluate: scores one plan.
        workers: how many plans are worked on at once.

    Attributes:
        compares: whether the score of a plan depends on the others that were submitted since the last wait.
    """

    compares: ClassVar[bool] = False

    def __init__(self, evaluate: Evaluate, workers: int) -> None:
        self.evaluate, self.workers = evaluate, workers

    @abstractmethod
    def submit(self, number: int, plan: Plan) -> None:
        """Take a plan, and begin with it when a worker is free; returns at once."""

    @abstractmethod
    def wait(self) -> list[tuple[int, Outcome]]:
        """Wait until some of what was submitted is done; its numbers and outcomes, each given back once.

        Raises:
            Exception: whatever the evaluator raised, other than :class:`TrialFailedError`; the other plans are lost.
        """

    @final
    def run(self, plans: Mapping[int, Plan]) -> Iterator[tuple[int, Outcome]]:
        """Evaluate all plans; each number comes back once, with its outcome, as soon as it is known."""
        for number, plan in plans.items():
            self.submit(number, plan)
        left = len(plans)
        while left:
            done = self.wait()
            left -= len(done)
            yield from done

    def close(self) -> None:
        """Release resources; work in progress is discarded."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_workers(workers: int, in_flight: int) -> None:
    """Check that there are as many open trials as workers.

    Raises:
        CompressError: there are fewer.
    """
    if workers > in_flight:
        raise CompressError(
            f"search: of {workers} workers some would never have anything to do with {in_flight} trials in flight; set "
            f"in_flight to {workers} or more (it is part of the search: another number finds another plan)"
        )


def outcome_of(evaluate: Evaluate, plan: Plan) -> Outcome:
    """Evaluate one plan here and now."""
    began = perf_counter()
    try:
        score = evaluate(plan)
    except TrialFailedError as error:
        return Outcome(None, str(error), perf_counter() - began)
    return Outcome(score, None, perf_counter() - began)
