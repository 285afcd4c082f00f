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
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import cos, pi
from pathlib import Path
from statistics import mean
from time import process_time
from typing import Any

import torch
import torch.nn.functional as F
from rows import append, asking, data_job, rows_of, spread, start
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from trained import NETWORKS, accuracy, augmented, images, load

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.budget import Budget
from lightning_compress.core.least_error import least_error
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.configuration import shipped_method
from lightning_compress.pipeline.evaluator import Evaluator
from lightning_compress.pipeline.planners.divergence import Divergence
from lightning_compress.pipeline.planners.search import Search
from lightning_compress.pipeline.quiet import quiet_trainer
from lightning_compress.pipeline.recalibration import TrainingForward, recalibrate
from lightning_compress.search.correlation import deviation_of_unrelated, rank_correlation
from lightning_compress.search.final_choice import ranking
from lightning_compress.search.journal import Entry, Journal, read
from lightning_compress.search.loop import search
from lightning_compress.search.problem import Problem
from lightning_compress.search.starts import CLOSED_FORM, STARTS, UNIFORM, scored_starts
from lightning_compress.vision.models.classifier import ImageClassifier

VALIDATION = 1_000  # images
BATCH = 128
CALIBRATION = 8  # batches for criteria, refits, errors and batch norms


@dataclass(frozen=True)
class Case:
    """A network, a method of ``+compress=`` and a budget."""

    network: str
    method: str
    budget: float
    overrides: tuple[str, ...] = ()
    lr: float = 0.02


BITS = ("compress/cost=weight_bits", "compress.stages.quantize.callbacks.quantization.act_bits=[8]")
PROBLEMS = {
    "resnet20-macs": Case("bsq_resnet20", "drl_prune", 1 / 3),
    "resnet20-bits": Case("bsq_resnet20", "drl_quant", 2.5 / 32, BITS),
    "resnet8-macs": Case("mlperf_tiny_resnet8", "drl_prune", 1 / 2),
    "resnet56-macs": Case("akamaster_resnet56_projected", "drl_prune", 1 / 2),
    "resnet8-bytes": Case("mlperf_tiny_resnet8", "drl_prune", 0.3, ("compress/cost=packed_bytes",)),
}
SCORED_NONE = ("uniform", "planner", "probes")  # plans that need no evaluation
WAYS = (
    *SCORED_NONE, "random", "ddpg+prior", "ddpg", "genecai+prior", "nsga2+prior", "optuna+prior", "greedy+prior",
    "surrogate+prior", "reinforce+prior", "genecai", "nsga2", "optuna", "greedy", "reinforce", "surrogate",
)  # fmt: skip


class Bench:
    """One problem: its data in memory, the evaluator, and the plan of the closed form."""

    def __init__(self, case: Case, nets: Path, npz: Path, folder: Path) -> None:
        self.case, self.folder = case, folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.known = NETWORKS[self.case.network]
        self.train, self.test = images(npz, "train"), images(npz, "test")
        self.validation = tuple(part[:VALIDATION] for part in images(npz, "val"))
        (x, y), (val_x, val_y) = self.train, self.validation
        self.module = ImageClassifier(load(self.case.network, nets), 10)
        stage = self.method("ddpg")
        callbacks = list(stage.callbacks.values())
        calibration = self._loader(x[: CALIBRATION * BATCH], y[: CALIBRATION * BATCH])
        for callback in callbacks:
            callback.calibrate(self.module, calibration)
        self.composition = Composition(callbacks, self.module.net, self.known.normalized(x[:2]))
        planner = stage.planner
        cost, profile = planner.cost, self.composition.profile
        self.budget = Budget(
            lambda plan: cost(self.composition.predict(plan)),
            cost.limit(self.case.budget, cost(profile)),
            self.composition.space(),
        )
        self.planner, self.calibration = planner.prior, calibration
        self.errors = self.errors_within(self.budget, probes=0)
        self.prior = least_error(self.errors, self.budget)
        self.evaluate = Evaluator(
            partial(copy.deepcopy, self.module),
            self.composition,
            calibration,
            validation=self._loader(val_x, val_y),
            recalibration_batches=CALIBRATION,
            costs=[planner.cost],
        )

    def errors_within(self, budget: Budget, probes: int) -> tuple[tuple[float, ...], ...]:
        """Return the closed form's errors for a budget."""
        planner = replace(self.planner, probes=probes)
        return planner.errors(self.composition, budget, self.module, self.calibration)

    @cached_property
    def probed(self) -> tuple[tuple[float, ...], ...]:
        """The errors where choices have weights."""
        return self.errors_within(self.budget, self.planner.batches)

    @cached_property
    def divergence(self) -> Divergence:
        """What plans do to the class scores on the batches that errors are measured on."""
        inputs = [x for x, _ in self.calibration][: self.planner.batches]
        return Divergence(self.composition, self.budget.space, self.module, inputs)

    @cached_property
    def start(self) -> Problem:
        """The problem of a search that starts from the better of Uniform and the closed form."""
        errors = self.probed if self.planner.probes else self.errors
        points = {CLOSED_FORM: least_error(errors, self.budget), UNIFORM: self.problem.start}
        objective, space = self.method("random").planner.objective, self.budget.space
        with Journal(self.folder / STARTS, {"way": "starts"}) as journal:
            starts = scored_starts(points, space, objective, self.evaluate, journal)
        return replace(self.problem, prior=ranking(starts.values(), objective)[0].indices, errors=errors)

    @property
    def problem(self) -> Problem:
        """The problem without a prior."""
        return Problem(self.budget, self.composition.profile, self.composition.predict)

    def method(self, searcher: str) -> Any:
        """Return the stage of the method with a searcher."""
        given = [*self.case.overrides, f"compress/searcher={searcher}"]
        (stage,) = shipped_method(self.case.method, given, budget=self.case.budget).stages.values()
        assert isinstance(stage.planner, Search)
        return stage

    def _loader(self, x: Tensor, y: Tensor) -> DataLoader:
        return DataLoader(TensorDataset(self.known.normalized(x), y), BATCH)

    def found(self, way: str, evaluations: int, seed: int) -> tuple[Plan, float]:
        """Return the plan of a way, and its validation accuracy."""
        searcher, _, prior = way.partition("+")
        if way in SCORED_NONE:
            searcher, evaluations, seed = "uniform", 1, 0
        planner = self.method(searcher).planner
        if way in ("planner", "probes"):
            errors = self.errors if way == "planner" else self.probed
            plan = self.budget.space.plan(least_error(errors, self.budget))
            return plan, self._score(way, plan)
        made = planner.searcher(problem=self.start if prior else self.problem, seed=seed, objective=planner.objective)
        known = [entry for file in sorted(self.folder.glob("*.sqlite")) for entry in read(file)]
        # Journals hold the scores of one evaluator: a folder of another's has another name.
        with Journal(self.folder / f"{way}-{evaluations}-{seed}.sqlite", {"way": way, "seed": seed}) as journal:
            best = search(made, self.evaluate, journal, evaluations, known=known)
        return best.plan, 100 * best.score.metrics["val_acc"]

    def _score(self, way: str, plan: Plan) -> float:
        """Return the validation accuracy of a plan, from a journal of its own."""
        with Journal(self.folder / f"{way}.sqlite", {"way": way, "seed": 0}) as journal:
            found = list(journal)
            if not found:
                score = self.evaluate(plan)
                journal.append(Entry(0, self.budget.space.indices(plan), self.evaluate.key(plan), score, None, 1.0))
                found = list(journal)
            assert found[0].score is not None
            return 100 * found[0].score.metrics["val_acc"]

    def applied(self, plan: Plan) -> ImageClassifier:
        """Return the network under a plan, with batch norms recalibrated."""
        module = copy.deepcopy(self.module)
        self.composition.apply(module.net, plan)
        self.recalibrate(module)
        return module

    def recalibrate(self, module: ImageClassifier) -> None:
        """Average the batch norms of a network as candidates have it."""
        trainer = quiet_trainer(self.evaluate.device, callbacks=[TrainingForward()])
        recalibrate(module, self.evaluate.recalibration, trainer)

    def worth(self, plan: Plan, seed: int, steps: int, lr: float) -> dict[str, float]:
        """Return the test accuracy of a plan, recalibrated and after the fine-tuning."""
        module = self.applied(plan)
        before = accuracy(module.net, self.known, *self.test)
        fine_tune(module.net, self.known.normalized, self.train, lr=lr, steps=steps, seed=seed)
        return {"before": before, "after": accuracy(module.net, self.known, *self.test)}


def fine_tune(
    net: nn.Module,
    normalized: Callable[[Tensor], Tensor],
    train: tuple[Tensor, Tensor],
    *,
    lr: float,
    steps: int,
    seed: int,
) -> None:
    """Train with SGD, the learning rate falling to zero as a cosine."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + cos(pi * step / steps)) / 2)
    x, y = train
    order = torch.cat([torch.randperm(len(x), generator=generator) for _ in range(steps * BATCH // len(x) + 1)])
    net.train()
    for chosen in order[: steps * BATCH].split(BATCH):
        optimizer.zero_grad()
        F.cross_entropy(net(normalized(augmented(x[chosen], generator))), y[chosen]).backward()
        optimizer.step()
        schedule.step()


def run(arguments: argparse.Namespace) -> None:
    """Add the rows that are missing."""
    torch.set_num_threads(1)
    file = arguments.folder / "rows.jsonl"
    rows = rows_of(file)
    done = {key(row) for row in rows}
    worth = {(r["problem"], r["plan"], r["seed"], r["steps"], r["lr"]): r for r in rows}
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
                }
                if key(given) in done:
                    continue
                began = process_time()
                plan, validation = bench.found(way, evaluations, seed)
                known = worth.get((arguments.problem, plan.digest, seed, arguments.steps, lr))
                values = (
                    {k: known[k] for k in ("before", "after")}
                    if known
                    else bench.worth(plan, seed, arguments.steps, lr)
                )
                cost = bench.budget.cost(bench.composition.resolve(plan)) / bench.budget.limit
                row = {**given, "validation": validation, **values, "of_limit": round(cost, 4), "plan": plan.digest}
                row["seconds"] = round(process_time() - began)
                worth[arguments.problem, plan.digest, seed, arguments.steps, lr] = row
                done.add(key(given))
                append(file, row)


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what makes a row another one."""
    return tuple(row[name] for name in ("problem", "way", "evaluations", "seed", "steps", "lr"))


def table(arguments: argparse.Namespace) -> None:
    """Print the rows, and their paired differences to Uniform."""
    rows = rows_of(arguments.folder / "rows.jsonl")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(key({**row, "seed": None}), []).append(row)
    uniform = {(r["problem"], r["seed"], r["steps"], r["lr"]): r["after"] for r in rows if r["way"] == "uniform"}
    head = f"{'':18}{'evals':>6}{'seeds':>6}{'validation':>16}{'recalibrated':>16}{'fine-tuned':>16}{'- Uniform':>16}"
    last = None
    for (problem, way, evaluations, _, steps, lr), found in sorted(
        groups.items(), key=lambda g: (g[0][0], *g[0][4:], -mean(r["after"] for r in g[1]))
    ):
        if last != (last := (problem, steps, lr)):
            print(f"\n{problem}, {steps} steps of {BATCH} images, learning rate {lr:g}\n{head}")
        pairs = [(r["problem"], r["seed"], r["steps"], r["lr"]) for r in found]
        paired = [r["after"] - uniform[p] for r, p in zip(found, pairs, strict=True) if p in uniform]
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
    running.add_argument("--lr", type=float, help="peak learning rate of the fine-tuning; else that of the problem")
    start(asked, jobs, table)


if __name__ == "__main__":
    main()
