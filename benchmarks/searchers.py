"""Searchers at equal evaluations on synthetic problems: ``python benchmarks/searchers.py --seeds 10``.

The problems of ``lightning_compress.testing.problems``, 14 layers, budget 50 %; best accuracy after 60, 120 and 200
trials: mean and standard deviation over the seeds (each seed is another problem too). Searchers as ``conf/`` sets them.
Rows "DDPG, ..." leave out one of its parts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from math import inf
from statistics import mean, stdev

import torch
from stable_baselines3 import SAC, TD3

from lightning_compress.search.objectives.objective import AccuracyUnderBudget, Objective
from lightning_compress.search.problem import Problem
from lightning_compress.search.searchers.ddpg import DDPG
from lightning_compress.search.searchers.genecai import GeneCAI
from lightning_compress.search.searchers.greedy import Greedy
from lightning_compress.search.searchers.nsga2 import NSGA2
from lightning_compress.search.searchers.optuna import OptunaSearcher
from lightning_compress.search.searchers.random import Random
from lightning_compress.search.searchers.reinforce import Reinforce
from lightning_compress.search.searchers.searcher import Searcher
from lightning_compress.search.searchers.uniform import Uniform
from lightning_compress.search.trial import Score
from lightning_compress.testing import problems

MARKS, OBJECTIVE = (60, 120, 200), AccuracyUnderBudget()


def best_after(searcher: Searcher, problem: problems.Synthetic) -> list[float]:
    best, found = 0.0, []
    for number in range(1, MARKS[-1] + 1):
        trial = searcher.ask()
        score = problem(trial.plan)
        searcher.tell(trial, score)
        best = max(best, score.metrics["val_acc"])
        if number in MARKS:
            found.append(best)
    return found


@dataclass(frozen=True)
class Unspent(Objective):
    """The same reward, of which searchers think that a cheaper plan may have more."""

    def __call__(self, score: Score) -> float:
        return OBJECTIVE(score)


def unspent(make: Callable[..., Searcher], problem: Problem, seed: int, _objective: Objective) -> Searcher:
    return make(problem, seed, Unspent())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rows", nargs="+", default=["*"], help="only rows whose names match one of these globs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    makers: dict[str, Callable[..., Searcher]] = {
        "Uniform": Uniform,
        "Random": Random,
        "Greedy": Greedy,
        "GeneCAI": GeneCAI,
        "NSGA2": NSGA2,
        "Optuna TPE": OptunaSearcher,
        "DDPG": DDPG,
        "DDPG, learns nothing": partial(DDPG, updates=0, imitation=0),
        "DDPG, no imitation": partial(DDPG, imitation=0),
        "DDPG, spends nothing": partial(unspent, DDPG),
        "DDPG, decides all": partial(DDPG, redecided=inf),
        "TD3": partial(DDPG, agent=TD3),
        "SAC": partial(DDPG, agent=partial(SAC, ent_coef=0.01), sigma=0.0),
        "REINFORCE": Reinforce,
        "REINFORCE, no imitation": partial(Reinforce, imitation=0),
    }
    for surface in (problems.channels, problems.bits, problems.removal):
        print(f"{surface.__name__:25}" + "".join(f"{mark:>18} trials" for mark in MARKS))
        for name, make in makers.items():
            if not any(fnmatch(name, glob) for glob in arguments.rows):
                continue
            rows = []
            for seed in range(arguments.seeds):
                problem = surface(layers=14, seed=seed)
                rows.append(best_after(make(problem.problem, seed, OBJECTIVE), problem))
            cells = (f"{mean(column):.4f} +- {stdev(column):.4f}" for column in zip(*rows, strict=True))
            print(f"{name:25}" + "".join(f"{cell:>25}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
