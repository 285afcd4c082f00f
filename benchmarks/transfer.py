"""A policy learned on one network at the start of a search on another: ``python benchmarks/transfer.py``.

Searches of 100 trials on synthetic problems of 14 layers, then of 40 trials on 22 layers, from scratch and warm. In a
family, sensitivities follow one curve over the relative depth; without one, each layer's is drawn by itself, and only
what a layer costs can be learned for elsewhere. Best accuracy: mean and standard deviation over five seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import mean, stdev
from tempfile import TemporaryDirectory

import torch

from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.ddpg import DDPG
from lightning_compress.search.searchers.reinforce import Reinforce
from lightning_compress.search.searchers.searcher import Searcher
from lightning_compress.testing import problems
from lightning_compress.testing.searchers import told

SOURCE, SEEDS, OBJECTIVE = 100, range(5), AccuracyUnderBudget()


def best(searcher: Searcher, problem: problems.Synthetic, trials: int) -> float:
    plans = [problem.problem.space.plan(point) for point in told(searcher, problem, trials)]
    return max(problem(plan).metrics["val_acc"] for plan in plans)


def compare(make: Callable[..., Searcher], surface: Callable[..., problems.Synthetic]) -> tuple[list[float], ...]:
    """Best accuracy by seed: from scratch, and warm."""
    problem = surface(layers=14, seed=SOURCE)
    source = make(problem.problem, SOURCE, OBJECTIVE)
    told(source, problem, 100)
    with TemporaryDirectory() as folder:
        source.save(folder)
        rows = []
        for seed in SEEDS:
            target = surface(layers=22, seed=seed)
            searchers = make(target.problem, seed, OBJECTIVE), make(target.problem, seed, OBJECTIVE, warm_start=folder)
            rows.append([best(searcher, target, 40) for searcher in searchers])
    return tuple(zip(*rows, strict=True))


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'':32}{'from scratch':>20}{'warm':>20}   warm is better")
    for surface in (problems.channels, problems.bits):
        for family in (0, 1, None):
            for make in (DDPG, Reinforce):
                cold, warm = compare(make, partial(surface, family=family))
                name = f"{surface.__name__}, family {family}, {make.__name__}"
                cells = "".join(f"{mean(column):>10.4f} +- {stdev(column):.4f}" for column in (cold, warm))
                print(f"{name:32}{cells}   {sum(w > c for c, w in zip(cold, warm, strict=True))} of 5", flush=True)


if __name__ == "__main__":
    main()
