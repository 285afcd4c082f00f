"""Compare what searches find in so many evaluations: ``python benchmarks/real/curves.py run NETS cifar10.npz``.

The best reward (accuracy less a tenth of the loss, in points, on 1,000 validation images with batch norms recalibrated)
after 20, 60 and 200 evaluations, and its difference to DDPG without a prior of the same seed; then the accuracy of
these plans on 10,000 test images, recalibrated, and its difference. "+prior" is the searcher as it is shipped, which
starts from the better of Uniform and the closed form. Problems, NETS and the ``.npz`` as in search.py; nothing is
fine-tuned. Journals and rows are kept in ``FOLDER``: a run that was killed goes on, and no plan is scored twice.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from bench import PROBLEMS, Bench
from rows import append, asking, rows_of, spread, start

from lightning_compress.search.journal import Journal, read
from lightning_compress.search.loop import search
from lightning_compress.search.objectives.objective import AccuracyUnderBudget, Objective
from lightning_compress.search.problem import Problem
from lightning_compress.search.searchers.searcher import Searcher

OBJECTIVE = AccuracyUnderBudget()
Made = Callable[[Bench, int], Searcher]


def add_rows(arguments: argparse.Namespace, name: str, ways: Mapping[str, Made], marks: tuple[int, ...]) -> None:
    """Add the rows that are missing: what each way has found at each mark, in evaluations."""
    torch.set_num_threads(1)
    folder, file = arguments.folder / arguments.problem, arguments.folder / f"{name}.jsonl"
    done = {(row["problem"], row["way"], row["seed"]) for row in rows_of(file)}
    bench = Bench(PROBLEMS[arguments.problem], arguments.nets, arguments.npz, folder)
    tested = cache(bench.tested)
    for seed in arguments.seeds:
        for way, make in ways.items():
            if (arguments.problem, way, seed) in done:
                continue
            known = [entry for journal in sorted(folder.glob("*.sqlite")) for entry in read(journal)]
            own = folder / f"{name}-{way.replace(' ', '_')}-{seed}.sqlite"
            with Journal(own, {"way": way, "seed": seed}) as journal:
                search(make(bench, seed), bench.evaluate, journal, marks[-1], known=known)
                scored = [(100 * OBJECTIVE(e.score), e.indices) for e in journal if e.score is not None]
            row = {"problem": arguments.problem, "way": way, "seed": seed}
            for mark in marks:
                row[f"after {mark}"], point = max(scored[:mark])
                row[f"test {mark}"] = tested(point)
            append(file, row)


def print_rows(arguments: argparse.Namespace, name: str, marks: tuple[int, ...], reference: str) -> None:
    """Print mean and standard deviation over the seeds, and of the paired differences to a reference."""
    rows = rows_of(arguments.folder / f"{name}.jsonl")
    for problem in dict.fromkeys(row["problem"] for row in rows):
        for what in ("after", "test"):  # older rows have no test accuracies
            columns = [f"{what} {mark}" for mark in marks]
            complete = [row for row in rows if row["problem"] == problem and row.keys() >= set(columns)]
            if complete:
                _print_columns(problem, {(row["way"], row["seed"]): row for row in complete}, columns, reference)


def _print_columns(
    problem: str, own: Mapping[tuple[str, int], Mapping[str, float]], columns: list[str], reference: str
) -> None:
    """Print columns of the rows of a problem, which are by way and seed."""
    heads = "".join(f"{column:>18}{f'- {reference}':>18}" for column in columns)
    print(f"\n{problem}\n{'':18}{'seeds':>6}{heads}")
    for way in dict.fromkeys(way for way, _ in own):
        seeds = [seed for other, seed in own if other == way and (reference, seed) in own]
        cells = ""
        for column in columns:
            found = [own[way, seed][column] for seed in seeds]
            apart = [value - own[reference, seed][column] for value, seed in zip(found, seeds, strict=True)]
            cells += f"{spread(found):>18}{'-' if way == reference else spread(apart, '+'):>18}"
        print(f"{way:18}{len(seeds):6}{cells}")


def started(make: Callable[[Problem, int, Objective], Searcher], bench: Bench, seed: int) -> Searcher:
    """Return a searcher of the problem that starts from the better of Uniform and the closed form."""
    return make(bench.start, seed, OBJECTIVE)


def shipped(way: str, bench: Bench, seed: int) -> Searcher:
    """Return a searcher as ``+compress/searcher=`` makes it, with ``+prior`` or without a prior."""
    searcher, _, prior = way.partition("+")
    made: Searcher = bench.method(searcher).planner.searcher(
        problem=bench.start if prior else bench.problem, seed=seed, objective=OBJECTIVE
    )
    return made


MARKS = (20, 60, 200)  # evaluations
REFERENCE = "ddpg"
WAYS = (REFERENCE, "surrogate+prior", "surrogate", "ddpg+prior", "random")


def run(arguments: argparse.Namespace) -> None:
    """Add the rows that are missing."""
    add_rows(arguments, "curves", {way: partial(shipped, way) for way in arguments.ways}, MARKS)


def table(arguments: argparse.Namespace) -> None:
    """Print the rows, and their differences to DDPG without a prior."""
    print_rows(arguments, "curves", MARKS, REFERENCE)


def main() -> None:
    """Run rows or print them."""
    asked, jobs, running = asking(__doc__, run, steps=0)
    running.add_argument("--problem", choices=list(PROBLEMS), default="resnet8-macs")
    running.add_argument("--ways", nargs="+", default=list(WAYS))
    start(asked, jobs, table)


if __name__ == "__main__":
    main()
