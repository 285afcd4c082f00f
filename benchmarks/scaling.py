"""Measure how well worker processes are kept busy: ``python benchmarks/scaling.py``.

Candidates that sleep stand for evaluations on accelerators: they need no core here, so what is measured is the
executor and the loop, not the machine; scaling_real.py has real candidates. Efficiency is the ideal time (all durations
divided by the workers) over the measured one, after the workers have started.

- even: the executor alone, candidates of 0.1 s, ``ROUNDS`` for each worker.
- GeneCAI: ``search()`` with its journal, two candidates in flight for each worker, candidates of 1 s.
- varied: the same with durations of 0.5 to 1.5 s. Candidates are told in the order in which they were asked, so that
  results do not depend on the number of workers: "possible" is what this, and the last candidates, leave.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from heapq import heapreplace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep

from lightning_compress.core.plan import Plan
from lightning_compress.search.executors.executor import Evaluate
from lightning_compress.search.executors.process import Processes
from lightning_compress.search.journal import Entry, Journal
from lightning_compress.search.loop import search
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.genecai import GeneCAI
from lightning_compress.search.searchers.random import Random
from lightning_compress.search.trial import Score
from lightning_compress.testing import problems

WORKERS, ROUNDS = (1, 2, 4, 8, 16, 32), 16
PROBLEM = problems.bits()  # so many plans that hardly any occurs twice
OBJECTIVE = AccuracyUnderBudget()


@dataclass(frozen=True)
class Sleeper:
    """A candidate that takes ``duration`` seconds, or up to a half less or more, as its digest says."""

    duration: float
    spread: float = 0.0

    def seconds(self, plan: Plan) -> float:
        """Return the seconds that a candidate takes."""
        return self.duration * (1 + self.spread * (int(plan.digest, 16) / 2**63 - 1))

    def key(self, plan: Plan) -> str:
        """Each plan is a network of its own."""
        return plan.digest

    def __call__(self, plan: Plan) -> Score:
        sleep(self.seconds(plan))
        score = PROBLEM(plan)
        return Score({**score.metrics, "worker": os.getpid()}, score.costs)


def plans(count: int) -> dict[int, Plan]:
    searcher = Random(PROBLEM.problem, 0, OBJECTIVE)
    return {number: searcher.ask().plan for number in range(count)}


def started(evaluate: Evaluate, workers: int) -> Processes:
    """Return an executor whose workers are all there."""
    executor, seen = Processes(evaluate, workers, start="forkserver"), set()
    while len(seen) < workers:
        seen |= {outcome.score.metrics["worker"] for _, outcome in executor.run(plans(workers))}
    return executor


def even(workers: int, duration: float) -> float:
    todo = plans(ROUNDS * workers)
    with started(Sleeper(duration), workers) as executor:
        began = perf_counter()
        assert len(list(executor.run(todo))) == len(todo)
        return ROUNDS * duration / (perf_counter() - began)


def searched(workers: int, spread: float) -> tuple[float, float]:
    """Efficiency of a search by GeneCAI, and what it would be if nothing but the candidates took time."""
    evaluate, trials, in_flight = Sleeper(1.0, spread), ROUNDS * workers, 2 * workers
    executor = started(evaluate, workers)
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()), Journal(Path(folder) / "j", {}) as journal:
        began = perf_counter()
        searcher = GeneCAI(PROBLEM.problem, 0, OBJECTIVE)
        search(searcher, evaluate, journal, trials, executor=lambda _: executor, in_flight=in_flight)
        seconds = perf_counter() - began
        todo = [duration(entry, evaluate) for entry in journal]
    ideal = sum(todo) / workers
    return ideal / seconds, ideal / makespan(todo, workers, in_flight)


def duration(entry: Entry, evaluate: Sleeper) -> float:
    """Seconds that a trial had to take; copies of known networks take none."""
    return evaluate.seconds(PROBLEM.problem.space.plan(entry.indices)) if entry.seconds else 0.0


def makespan(todo: Sequence[float], workers: int, in_flight: int) -> float:
    """Seconds until all is done, where each waits for a worker and for all up to ``in_flight`` before it."""
    free, told = [0.0] * workers, []
    for number, duration in enumerate(todo):
        asked = told[number - in_flight] if number >= in_flight else 0.0
        end = max(free[0], asked) + duration
        heapreplace(free, end)
        told.append(max(end, told[-1]) if told else end)
    return told[-1]


def main() -> None:
    print(f"{'workers':7}{'even 0.1 s':>12}{'GeneCAI, 1 s':>14}{'possible':>10}{'varied':>10}{'possible':>10}")
    for workers in WORKERS:
        cells = [(even(workers, 0.1), 12)]
        for spread, width in ((0.0, 14), (0.5, 10)):
            cells += zip(searched(workers, spread), (width, 10), strict=True)
        print(f"{workers:7}" + "".join(f"{cell:{width}.1%}" for cell, width in cells), flush=True)


if __name__ == "__main__":
    main()
