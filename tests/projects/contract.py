"""Take a project through everything: all callbacks at once, fit, save, load, checkpoint, and a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

import lightning_compress as lc
from lightning_compress.core.costs.weight_bits import WeightBits
from lightning_compress.distillation.hinton import Hinton
from lightning_compress.distillation.loss import DistillationLoss
from lightning_compress.pipeline.arguments import selecting
from lightning_compress.pipeline.evaluation import Evaluation
from lightning_compress.pipeline.planners.search import Search
from lightning_compress.pipeline.stage import Stage
from lightning_compress.search.objectives.objective import LossUnderBudget
from lightning_compress.search.searchers.random import Random
from lightning_compress.surgery.inputs import example_of
from lightning_compress.surgery.measure import forward_hooked
from lightning_compress.surgery.structure import network, structure_of
from lightning_compress.surgery.tensors import tensors_in
from lightning_compress.testing.toys import QUIET

WHOLE: dict[str, float] = {"channels": 0.5, "density": 0.5, "weight_bits": 4, "act_bits": 8}
METHODS = (lc.ChannelPruning, lc.WeightPruning, lc.QuantizationAwareTraining)


class Supervised(LightningModule):
    """Base class of the projects: one loss, logged by every step under its name."""

    def loss(self, batch: Any) -> torch.Tensor:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), batch_size=2)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch), batch_size=2)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], 1e-3)


class Rows(LightningDataModule):
    """The same few rows for training, validation and test.

    Args:
        row: ``(generator) -> row``, which the loader puts into batches.
        collate: of the loader.
    """

    def __init__(self, row: Callable[[torch.Generator], Any], collate: Any = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.rows, self.collate = [row(generator) for _ in range(8)], collate

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.rows, 4, collate_fn=self.collate)

    val_dataloader = test_dataloader = train_dataloader


@dataclass(frozen=True)
class Project:
    """One kind of project.

    Attributes:
        module: makes the module.
        data: makes its data module.
        network: name of the sub-module to compress.
        teaching: the loss by which another module of its kind teaches; None where outputs are no logits and no tensor.
    """

    module: Callable[[], LightningModule]
    data: Callable[[], LightningDataModule]
    network: str | None = None
    teaching: DistillationLoss | None = field(default_factory=Hinton)

    def made(self) -> LightningModule:
        return selecting(self.module(), self.network)


def trains_saves_loads_and_resumes(project: Project, folder: Path) -> None:
    """All callbacks at once; file and checkpoint give the network back, and a training goes on."""
    seed_everything(0, verbose=False)
    module, data = project.made(), project.data()
    example = example_of(module, data.train_dataloader())
    plan = lc.uniform_plan(network(module), example, callbacks=[method() for method in METHODS], **WHOLE)
    knobs = {knob for numbers in plan.layers.values() for knob in numbers}
    assert knobs == WHOLE.keys()

    def trainer(epochs: int) -> Trainer:
        callbacks: list[Any] = [method(method().own(plan)) for method in METHODS]
        if project.teaching is not None:
            callbacks.append(lc.KnowledgeDistillation(network(project.made()), project.teaching))
        return Trainer(max_epochs=epochs, callbacks=callbacks, **QUIET)

    first = trainer(1)
    first.fit(module, data)
    first.save_checkpoint(folder / "a.ckpt")
    assert structure_of(network(module)).applied.keys() >= {method.kind for method in METHODS}
    trainer(2).fit(project.made(), data, ckpt_path=folder / "a.ckpt", weights_only=False)
    lc.save(module, folder / "a.safetensors", example_input=example)
    loaded = lc.load(folder / "a.safetensors", project.made())
    outputs = [tensors_in(forward_hooked(network(each.eval()), example, [])) for each in (module, loaded)]
    for ours, theirs in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def is_searched(project: Project, folder: Path) -> None:
    """``lc.compress`` with a search of three trials ends with a file that loads."""
    seed_everything(0, verbose=False)
    planner = Search(
        searcher=Random, trials=3, cost=WeightBits(), budget=0.5, objective=LossUnderBudget(),
        evaluation=Evaluation(monitor="val_loss", recalibration_batches=1, validation_batches=1), final_choice=None,
    )  # fmt: skip
    stages = {"all": Stage({method.kind: method() for method in METHODS}, planner, epochs=1)}
    make = partial(Trainer, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    result = lc.compress(
        project.module(), project.data(), stages, folder=folder, make_trainer=make, metric="test_loss",
        make_logger=partial(CSVLogger, name=""), network=project.network,
    )  # fmt: skip
    assert result.plan.layers
    lc.load(folder / "model.safetensors", project.made())
