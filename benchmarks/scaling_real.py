"""GeneCAI with one and two worker processes on real candidates: ``python benchmarks/scaling_real.py``.

Channels of a ResNet-8 on scikit-learn's digits, budget half of the MACs, as +compress=genecai searches them; candidates
are recalibrated and validated, or trained for ten steps before. Both searches must find the same plans with the same
accuracies, or the benchmark fails. Efficiency is the time with one worker over twice that with two, after the workers
have started. By the clock: the fastest of the rounds, which take turns. By CPU seconds, which other work on the machine
stretches less: those of the search with two workers, laid out as if each process had a core of its own, each candidate
asked when all up to four before it are told, and workers waiting while the search itself computes, which in part they
need not. "possible" is what the order of telling alone would leave, by the same CPU seconds.
"""

from __future__ import annotations

import argparse
import copy
import os
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

import torch
from cheap_score import digits, trained
from scaling import makespan

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.budget import Budget
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.evaluator import Evaluator
from lightning_compress.pruning.criteria.l2 import L2
from lightning_compress.search.executors.executor import Evaluate
from lightning_compress.search.executors.process import Processes
from lightning_compress.search.journal import Entry, Journal
from lightning_compress.search.loop import search
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.problem import Problem
from lightning_compress.search.searchers.genecai import GeneCAI
from lightning_compress.search.searchers.random import Random
from lightning_compress.search.trial import Score

TRIALS, IN_FLIGHT, SHARE, OBJECTIVE = 64, 4, 0.5, AccuracyUnderBudget()


@dataclass(frozen=True)
class Timed:
    """An evaluator whose scores also say which process made them, in how many CPU seconds."""

    evaluate: Evaluate

    def key(self, plan: Plan) -> str:
        """Return the key of a plan, as the evaluator does."""
        return self.evaluate.key(plan)

    def __call__(self, plan: Plan) -> Score:
        began = process_time()
        score = self.evaluate(plan)
        metrics = {**score.metrics, "worker": os.getpid(), "cpu": process_time() - began}
        return Score(metrics, score.costs, score.before)


@dataclass(frozen=True)
class Search:
    """Time and results of one search.

    Attributes:
        seconds: by the clock.
        own: CPU seconds of the process that searches.
        candidates: CPU seconds of each candidate, in order; copies of known networks take none.
        found: plan and accuracy of each trial.
    """

    seconds: float
    own: float
    candidates: list[float]
    found: list[tuple[tuple[int, ...], float]]

    def at_best(self, workers: int) -> float:
        """Seconds if every process had a core of its own."""
        return makespan(self.candidates, workers, IN_FLIGHT) + self.own


def started(evaluate: Timed, workers: int, problem: Problem) -> Processes:
    """Return an executor whose workers are all there and have each scored something."""
    executor, searcher, seen = Processes(evaluate, workers), Random(problem, 1, OBJECTIVE), set()
    while len(seen) < workers:
        plans = {number: searcher.ask().plan for number in range(workers)}
        seen |= {outcome.score.metrics["worker"] for _, outcome in executor.run(plans)}
    return executor


def searched(evaluate: Timed, workers: int, problem: Problem) -> Search:
    executor = started(evaluate, workers, problem)
    with TemporaryDirectory() as folder, Journal(Path(folder) / "j", {}) as journal:
        with redirect_stdout(StringIO()):
            began, own = perf_counter(), process_time()
            searcher = GeneCAI(problem, 0, OBJECTIVE)
            search(searcher, evaluate, journal, TRIALS, executor=lambda _: executor, in_flight=IN_FLIGHT)
            seconds, own = perf_counter() - began, process_time() - own
        entries = list(journal)
    return Search(seconds, own, [cpu(entry) for entry in entries], [(e.indices, accuracy(e)) for e in entries])


def cpu(entry: Entry) -> float:
    return entry.score.metrics["cpu"] if entry.seconds else 0.0


def accuracy(entry: Entry) -> float:
    return entry.score.metrics["val_acc"]


def compare(name: str, evaluate: Timed, problem: Problem, rounds: int) -> None:
    """Both numbers of workers in turn, ``rounds`` times; one line for each, and the efficiencies."""
    best: dict[int, Search] = {}
    for _ in range(rounds):
        for workers in (1, 2):
            one = searched(evaluate, workers, problem)
            assert one.found == best.get(1, one).found, f"{workers} workers found other plans than 1"
            best[workers] = min(best.get(workers, one), one, key=lambda s: s.seconds)
    for workers, one in best.items():
        sums = f"{one.seconds:10.1f}{sum(one.candidates):16.1f}{one.own:14.1f}"
        print(f"{name if workers == 1 else '':24}{workers:7}{sums}", end="" if workers == 2 else "\n")
    one, two = best[1], best[2]
    shares = (
        one.seconds / (2 * two.seconds),
        two.at_best(1) / (2 * two.at_best(2)),
        sum(two.candidates) / (2 * makespan(two.candidates, 2, IN_FLIGHT)),
    )
    print("".join(f"{share:14.1%}" for share in shares), flush=True)


def main() -> None:
    """Train the network, then both kinds of candidates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = digits(0)
    module = trained(data)
    composition = Composition([ChannelPruning(criterion=L2())], module.net, next(iter(data.val_dataloader()))[0][:2])
    space, dense = composition.space(), MACs()(composition.profile)
    budget = Budget(lambda plan: MACs()(composition.predict(plan)), SHARE * dense, space)
    problem = Problem(budget, composition.profile, composition.predict)
    print(f"load before: {os.getloadavg()[0]:.1f}; {TRIALS} trials, {IN_FLIGHT} in flight, {arguments.rounds} rounds")
    heads = ("seconds", 10), ("candidates, CPU", 16), ("search, CPU", 14)
    shares = ("by the clock", 14), ("by CPU", 14), ("possible", 14)
    print(f"{'candidates':24}{'workers':>7}" + "".join(f"{head:>{width}}" for head, width in (*heads, *shares)))
    for name, steps in (("recalibrated", 0), ("trained for 10 steps", 10)):
        loaders = data.train_dataloader(), data.val_dataloader()
        make = partial(copy.deepcopy, module)
        evaluate = Evaluator(
            make,
            composition,
            loaders[0],
            validation=loaders[1],
            finetune_steps=steps,
            recalibration_batches=8,
        )
        compare(name, Timed(evaluate), problem, arguments.rounds)
    print(f"load after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
