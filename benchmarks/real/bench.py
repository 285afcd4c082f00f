"""Problems on well-trained networks: the plans that each way finds, and their worth after a short fine-tuning."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import cos, pi
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rows import WHOLE
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
from lightning_compress.search.final_choice import ranking
from lightning_compress.search.journal import Journal, read
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
        return self.errors_within(self.budget, self.planner.probes or self.planner.batches)

    @cached_property
    def divergence(self) -> Divergence:
        """The divergence of plans, on the batches that errors are measured on."""
        inputs = [x for x, _ in self.calibration][: self.planner.batches]
        return Divergence(self.composition, self.budget.space, self.module, inputs, self.planner.loss)

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
            point = least_error(self.errors if way == "planner" else self.probed, self.budget)
            with Journal(self.folder / f"{way}.sqlite", {"way": way, "seed": 0}) as journal:
                scored = scored_starts({way: point}, self.budget.space, planner.objective, self.evaluate, journal)
            score = scored[way].score
            assert score is not None
            return self.budget.space.plan(point), 100 * score.metrics["val_acc"]
        made = planner.searcher(problem=self.start if prior else self.problem, seed=seed, objective=planner.objective)
        known = [entry for file in sorted(self.folder.glob("*.sqlite")) for entry in read(file)]
        # Journals hold the scores of one evaluator: a folder of another's has another name.
        with Journal(self.folder / f"{way}-{evaluations}-{seed}.sqlite", {"way": way, "seed": seed}) as journal:
            best = search(made, self.evaluate, journal, evaluations, known=known)
        return best.plan, 100 * best.score.metrics["val_acc"]

    def applied(self, plan: Plan) -> ImageClassifier:
        """Return the network under a plan, with batch norms recalibrated."""
        module = copy.deepcopy(self.module)
        self.composition.apply(module.net, plan)
        self.recalibrate(module)
        return module

    def tested(self, point: tuple[int, ...]) -> float:
        """Return the test accuracy of a plan, recalibrated."""
        return accuracy(self.applied(self.budget.space.plan(point)).net, self.known, *self.test)

    def recalibrate(self, module: ImageClassifier) -> None:
        """Average the batch norms of a network as candidates have it."""
        trainer = quiet_trainer(self.evaluate.device, callbacks=[TrainingForward()])
        recalibrate(module, self.evaluate.recalibration, trainer)

    def worth(self, plan: Plan, seed: int, steps: int, lr: float, precision: str = WHOLE) -> dict[str, float]:
        """Return the test accuracy of a plan, recalibrated and after the fine-tuning."""
        module = self.applied(plan)
        before = accuracy(module.net, self.known, *self.test)
        fine_tune(module.net, self.known.normalized, self.train, lr=lr, steps=steps, seed=seed, precision=precision)
        return {"before": before, "after": accuracy(module.net, self.known, *self.test)}


def fine_tune(
    net: nn.Module,
    normalized: Callable[[Tensor], Tensor],
    train: tuple[Tensor, Tensor],
    *,
    lr: float,
    steps: int,
    seed: int,
    precision: str = WHOLE,
) -> None:
    """Train with SGD, the learning rate falling to zero as a cosine; in bf16 with channels last, which is faster."""
    halved = precision != WHOLE
    memory_format = torch.channels_last if halved else torch.contiguous_format
    net.to(memory_format=memory_format)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + cos(pi * step / steps)) / 2)
    x, y = train
    order = torch.cat([torch.randperm(len(x), generator=generator) for _ in range(steps * BATCH // len(x) + 1)])
    net.train()
    for chosen in order[: steps * BATCH].split(BATCH):
        optimizer.zero_grad()
        images = normalized(augmented(x[chosen], generator)).contiguous(memory_format=memory_format)
        with torch.autocast("cpu", torch.bfloat16, enabled=halved):
            loss = F.cross_entropy(net(images), y[chosen])
        loss.backward()
        optimizer.step()
        schedule.step()
    net.to(memory_format=torch.contiguous_format)
