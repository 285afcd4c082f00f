"""Does a cheap score rank plans as their accuracy after fine-tuning does? Kendall's tau of every kind of score.

    python benchmarks/real/score_kinds.py run NETS cifar10.npz --problem resnet8-macs --plans 24 --steps 390
    python benchmarks/real/score_kinds.py table

NETS and the ``.npz`` as in search.py, whose problems these are. Half of the plans are drawn at random, half are near
the plan of the closed form (each number moves by up to two values with probability 0.3); all are projected onto the
budget. Scores of a plan, none of which opens the test images:

    error              the closed form's own: minus the sum of relative output errors, nothing is run
    weighed error      the same, of each choice times its weight: what it alone does to the class scores over its error
    divergence         minus that of the class scores of train images from the dense network's, with refit, no labels
    recalibrated       accuracy on validation images with batch norms recalibrated, no refit
    refit              the same with the layers behind removed channels refitted, which searches use
    refit + N steps    the same after so few steps of fine-tuning

What they are held against is the accuracy on all test images after the longer fine-tuning (SGD, cosine to zero, no
distillation), with refit. The seed is that of the plans and of the batches. Rows are appended to
``FOLDER/score_kinds.jsonl``; those that are there are not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from bench import PROBLEMS, Bench, Case, fine_tune
from rows import append, asking, compared, precise, rows_of, start
from trained import accuracy

from lightning_compress.pipeline.planners.choice_weights import choice_weights
from lightning_compress.search.correlation import deviation_of_unrelated, rank_correlation

SHORT = 40  # steps of the short fine-tuning
MOVED, REACH = 0.3, 2  # probability that a number moves, and by how many values at most
KINDS = ("error", "weighed error", "divergence", "recalibrated", "refit", f"refit + {SHORT} steps")
WITHOUT_REFIT = "compress.refit=null"


def plans(bench: Bench, count: int, seed: int) -> Iterator[tuple[int, ...]]:
    """Yield different points within the budget: random ones and neighbors of the closed form's, in turn."""
    draw, seen = np.random.default_rng(seed), set[tuple[int, ...]]()
    sizes = [len(choice.values) for choice in bench.budget.space.choices]
    while len(seen) < count:
        if len(seen) % 2:
            moves = draw.integers(-REACH, REACH + 1, len(sizes)) * (draw.random(len(sizes)) < MOVED)
            drawn = [min(max(at + move, 0), size - 1) for at, move, size in zip(bench.prior, moves, sizes, strict=True)]
        else:
            drawn = list(draw.integers(0, sizes))
        point = bench.budget.project([int(index) for index in drawn])
        if point not in seen:
            seen.add(point)
            yield point


def validated(bench: Bench, point: tuple[int, ...], steps: int, seed: int, precision: str) -> float:
    """Return the score of a plan as a search sees it, after a few steps of fine-tuning if any."""
    if not steps:
        score = bench.evaluate(bench.budget.space.plan(point))
        return float(bench.method("random").planner.objective(score))
    module = bench.applied(bench.budget.space.plan(point))
    fine_tune(
        module.net, bench.known.normalized, bench.train,
        lr=bench.case.lr, steps=steps, seed=seed, precision=precision,
    )  # fmt: skip
    return accuracy(module.net, bench.known, *bench.validation)


def run(arguments: argparse.Namespace) -> None:
    """Add the rows that are missing."""
    torch.set_num_threads(1)
    file, (seed,) = arguments.folder / "score_kinds.jsonl", arguments.seeds
    case = PROBLEMS[arguments.problem]
    bench = Bench(case, arguments.nets, arguments.npz, arguments.folder / arguments.problem)
    plain = Bench(
        Case(case.network, case.method, case.budget, (*case.overrides, WITHOUT_REFIT), case.lr),
        arguments.nets,
        arguments.npz,
        arguments.folder / f"{arguments.problem}-plain",
    )
    weights = choice_weights(bench.errors, bench.divergence)
    precision = arguments.precision
    done = {(row["plan"], *case_of(row)) for row in rows_of(file)}
    scores: dict[str, Callable[[tuple[int, ...]], float]] = {
        "error": lambda point: -sum(float(table[i]) for table, i in zip(bench.errors, point, strict=True)),
        "weighed error": lambda point: (
            -sum(weight * table[i] for weight, table, i in zip(weights, bench.errors, point, strict=True))
        ),
        "divergence": lambda point: -bench.divergence(point),
        "recalibrated": lambda point: validated(plain, point, 0, seed, precision),
        "refit": lambda point: validated(bench, point, 0, seed, precision),
        f"refit + {SHORT} steps": lambda point: validated(bench, point, SHORT, seed, precision),
    }
    for point in plans(bench, arguments.plans, seed):
        plan = bench.budget.space.plan(point)
        row: dict[str, Any] = {"problem": arguments.problem, "plan": plan.digest, "seed": seed}
        row |= {"steps": arguments.steps, "precision": precision}
        if (plan.digest, *case_of(row)) in done:
            continue
        row |= {kind: score(point) for kind, score in scores.items()}
        row |= bench.worth(plan, seed, arguments.steps, case.lr, precision)
        append(file, row)


def case_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what rows share that are compared."""
    return (*compared(row, "problem", "steps"), row["seed"])


def table(arguments: argparse.Namespace) -> None:
    """Print tau of each kind of score with the accuracy after fine-tuning: of all plans, and of the best quarter."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows_of(arguments.folder / "score_kinds.jsonl"):
        groups.setdefault(case_of(row), []).append(row)
    for (problem, steps, precision, seed), rows in groups.items():
        ranked = sorted(rows, key=lambda row: -row["after"])
        best = ranked[: max(2, len(rows) // 4)]
        print(f"\n{problem}, {len(rows)} plans of seed {seed}, {steps} steps, {precision}: {best[0]['after']:.2f} to "
              f"{ranked[-1]['after']:.2f} %")  # fmt: skip
        print(f"unrelated scores: 0 +- {deviation_of_unrelated(len(rows)):.2f} and, of the best quarter ({len(best)}), "
              f"0 +- {deviation_of_unrelated(len(best)):.2f}")  # fmt: skip
        for kind in KINDS:
            found = [
                rank_correlation([row[kind] for row in part], [row["after"] for row in part]) for part in (rows, best)
            ]
            print(f"{kind:20}{found[0]:8.2f}{found[1]:8.2f}")


def main() -> None:
    """Run rows or print them."""
    asked, jobs, running = asking(__doc__, run, steps=390)
    running.add_argument("--problem", choices=list(PROBLEMS), default="resnet8-macs")
    precise(running)
    running.add_argument("--plans", type=int, default=24)
    start(asked, jobs, table)


if __name__ == "__main__":
    main()
