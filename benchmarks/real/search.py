"""Searches on well-trained networks: Uniform, the closed form, Random, and each searcher with and without the prior.

"planner" adds the closed form's errors as they are, "probes" with the weights of single choices (OutputError(probes=)).
"+prior" is a search as it is shipped: it starts from the better of Uniform and the closed form, for channels "probes".

    python benchmarks/real/search.py run NETS cifar10.npz --problem resnet20-macs --seeds 0 1 2
    python benchmarks/real/search.py table
    python benchmarks/real/search.py tau NETS cifar10.npz --problem resnet20-macs

NETS is a folder with the weights (see trained.py), the ``.npz`` holds ``train_images``, ``train_labels``, and the same
for ``val`` and ``test``. One row is a plan that one way found with so many evaluations and one seed, and what
the network is worth with it: validation accuracy as the search saw it, test accuracy with batch norms recalibrated, and
test accuracy after the same short fine-tuning for all (SGD, cosine to zero, batch norms learn on, no distillation). The
seed is that of the search and of the order of the fine-tuning's batches. A candidate's score is its accuracy, less a
tenth of the loss, on 1,000 validation images, which the dense networks have seen in their training; the test images
are opened for the rows alone. Each row is appended to ``FOLDER/rows.jsonl`` when it is done, and searches keep their
journals there: a run that was killed goes on, and rows that are there are skipped.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from statistics import mean
from time import process_time
from typing import Any

import torch
from bench import BATCH, PROBLEMS, SCORED_NONE, Bench
from rows import append, asking, compared, data_job, precise, rows_of, spread, start

from lightning_compress.search.correlation import deviation_of_unrelated, rank_correlation
from lightning_compress.search.journal import read

WAYS = (
    *SCORED_NONE, "random", "ddpg+prior", "ddpg", "genecai+prior", "nsga2+prior", "optuna+prior", "greedy+prior",
    "surrogate+prior", "reinforce+prior", "genecai", "nsga2", "optuna", "greedy", "reinforce", "surrogate",
)  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Add the rows that are missing."""
    torch.set_num_threads(1)
    file = arguments.folder / "rows.jsonl"
    rows = rows_of(file)
    done = {key(row) for row in rows}
    worth = {(r["plan"], *where(r)): r for r in rows}
    lr = arguments.lr or PROBLEMS[arguments.problem].lr
    bench = Bench(PROBLEMS[arguments.problem], arguments.nets, arguments.npz, arguments.folder / arguments.problem)
    for seed in arguments.seeds:
        for evaluations in arguments.evaluations:
            for way in arguments.ways:
                given = {
                    "problem": arguments.problem,
                    "way": way,
                    "evaluations": 0 if way in SCORED_NONE else evaluations,
                    "seed": seed,
                    "steps": arguments.steps,
                    "lr": lr,
                    "precision": arguments.precision,
                }
                if key(given) in done:
                    continue
                began = process_time()
                plan, validation = bench.found(way, evaluations, seed)
                known = worth.get((plan.digest, *where(given)))
                values = (
                    {k: known[k] for k in ("before", "after")}
                    if known
                    else bench.worth(plan, seed, arguments.steps, lr, arguments.precision)
                )
                cost = bench.budget.cost(bench.composition.resolve(plan)) / bench.budget.limit
                row = {**given, "validation": validation, **values, "of_limit": round(cost, 4), "plan": plan.digest}
                row["seconds"] = round(process_time() - began)
                worth[plan.digest, *where(given)] = row
                done.add(key(given))
                append(file, row)


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what makes a row another one."""
    return (row["way"], row["evaluations"], *where(row))


def where(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what rows share that are compared: the problem and the fine-tuning."""
    return (*compared(row, "problem", "steps", "lr"), row["seed"])


def table(arguments: argparse.Namespace) -> None:
    """Print the rows, and their paired differences to Uniform."""
    rows = rows_of(arguments.folder / "rows.jsonl")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(key({**row, "seed": None}), []).append(row)
    uniform = {where(r): r["after"] for r in rows if r["way"] == "uniform"}
    head = f"{'':18}{'evals':>6}{'seeds':>6}{'validation':>16}{'recalibrated':>16}{'fine-tuned':>16}{'- Uniform':>16}"
    last = None
    for (way, evaluations, *place), found in sorted(
        groups.items(), key=lambda g: (*g[0][2:-1], -mean(r["after"] for r in g[1]))
    ):
        problem, steps, lr, precision, _ = place
        if last != (last := place):
            print(f"\n{problem}, {steps} steps of {BATCH} images, learning rate {lr:g}, {precision}\n{head}")
        paired = [r["after"] - uniform[where(r)] for r in found if where(r) in uniform]
        cells = [spread([r[name] for r in found]) for name in ("validation", "before", "after")]
        cells.append("-" if way == "uniform" else spread(paired, "+"))
        print(f"{way:18}{evaluations:6}{len(found):6}" + "".join(f"{cell:>16}" for cell in cells))


def tau(arguments: argparse.Namespace) -> None:
    """Print Kendall's tau of the closed form's error with the rewards of all plans that were scored."""
    bench = Bench(PROBLEMS[arguments.problem], arguments.nets, arguments.npz, arguments.folder / arguments.problem)
    objective = bench.method("random").planner.objective
    entries = [entry for file in sorted(bench.folder.glob("*.sqlite")) for entry in read(file)]
    rewards = {entry.indices: objective(entry.score) for entry in entries if entry.score is not None}
    error = {point: sum(table[index] for table, index in zip(bench.errors, point, strict=True)) for point in rewards}
    best = sorted(rewards, key=lambda point: -rewards[point])[: len(rewards) // 4]
    for name, points in (("all", list(rewards)), ("best quarter", best)):
        found = rank_correlation([-error[point] for point in points], [rewards[point] for point in points])
        print(f"{name}: {len(points)} plans, tau {found:.2f}, unrelated 0 +- {deviation_of_unrelated(len(points)):.2f}")


def main() -> None:
    """Run rows or print them."""
    asked, jobs, running = asking(__doc__, run, steps=100)
    for job in (
        running,
        data_job(jobs, "tau", "print how the closed form's error ranks the plans that were scored", tau),
    ):
        job.add_argument("--problem", choices=list(PROBLEMS), default="resnet20-macs")
    running.add_argument("--ways", nargs="+", default=list(WAYS))
    running.add_argument("--evaluations", type=int, nargs="+", default=[24])
    precise(running)
    running.add_argument("--lr", type=float, help="peak learning rate of the fine-tuning; else that of the problem")
    start(asked, jobs, table)


if __name__ == "__main__":
    main()
