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
from torch import nn
from torch.utils.data import DataLoader

import lightning_compress as lc
from lightning_compress.callbacks.base.callback import known_structure
from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.costs.weight_bits import WeightBits
from lightning_compress.core.plan import Number, Plan
from lightning_compress.distillation.feature_mse import FeatureMSE
from lightning_compress.distillation.hinton import Hinton
from lightning_compress.distillation.loss import DistillationLoss
from lightning_compress.pipeline.arguments import selecting
from lightning_compress.pipeline.evaluation import Evaluation
from lightning_compress.pipeline.planners.from_file import FromFile
from lightning_compress.pipeline.planners.search import Search
from lightning_compress.pipeline.stage import Stage
from lightning_compress.pruning.initializers.inherit import Inherit
from lightning_compress.search.objectives.objective import LossUnderBudget
from lightning_compress.search.searchers.random import Random
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.inputs import example_of
from lightning_compress.surgery.measure import forward_hooked, measure
from lightning_compress.surgery.structure import network, structure_of
from lightning_compress.surgery.tensors import tensors_in
from lightning_compress.testing.toys import QUIET

NUMBERS: dict[str, Number] = {
    "channels": 0.5, "heads": 0.5, "rank_in": 0.5, "rank_out": 0.5, "log_normal": 1, "information": 1, "density": 0.5,
    "variational": 1, "joint": 1, "weight_bits": 4, "act_bits": 8,
}  # fmt: skip
METHODS = (
    lc.ChannelPruning, lc.LowRank, lc.LogNormalDropout, lc.InformationDropout, lc.WeightPruning, lc.VariationalDropout,
    lc.JointSparsityQuantization, lc.QuantizationAwareTraining,
)  # fmt: skip
# One noise at a layer; one of what zeroes weights; and what rounds weights by a codebook rounds them alone.
IN_TURN = (("log_normal", "information"), ("density", "variational", "joint"), ("joint", "weight_bits"))
SEARCHED = (
    lc.ChannelPruning, lc.LowRank, lc.InformationDropout, lc.WeightPruning, lc.QuantizationAwareTraining,
)  # fmt: skip


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


def one_less(net: nn.Module, example: Any) -> Plan:
    """Return a plan that removes the first block or layer that can be; an empty one where none can."""
    removable = lc.LayerRemoval().choices(net, known_structure(net, example).profile, example)
    return Plan({choice.layer: {"keep": 0} for choice in removable[:1]})


def everything(net: nn.Module, example: Any, removed: Plan) -> Plan:
    """Return a plan with the knobs of all other callbacks, for what is left after that one."""
    thin = clone(net)
    lc.LayerRemoval(removed, Inherit()).apply(thin, example)
    composition = Composition([method() for method in METHODS], thin, example)
    layers: dict[str, dict[str, Number]] = {}
    for choice in composition.space().choices:
        if choice.knob in NUMBERS:
            layers.setdefault(choice.layer, {})[choice.knob] = NUMBERS[choice.knob]
    for turn in IN_TURN:
        for place, knobs in enumerate(layers.values()):
            there = [knob for knob in turn if knob in knobs]
            for knob in there:
                if knob != there[place % len(there)]:
                    del knobs[knob]
    return composition.resolve(Plan(layers))


def trains_saves_loads_and_resumes(project: Project, folder: Path) -> None:
    """All callbacks at once; file and checkpoint give the network back, and a training goes on."""
    seed_everything(0, verbose=False)
    module, data = project.made(), project.data()
    example = example_of(module, data.train_dataloader())
    removed = one_less(network(module), example)
    rest = everything(network(module), example, removed)
    knobs = {knob for numbers in rest.layers.values() for knob in numbers}
    assert knobs >= {"channels", "density", "variational", "log_normal", "weight_bits", "act_bits"}
    last = [layer.name for layer in measure(network(module), example).weighted if layer.positions][-1]

    def trainer(epochs: int) -> Trainer:
        callbacks: list[Any] = [
            lc.LayerRemoval(removed),
            *(method().with_plan(method().own(rest)) for method in METHODS),
        ]
        if project.teaching is not None:
            callbacks.append(lc.KnowledgeDistillation(network(project.made()), project.teaching))
        if project.module().automatic_optimization:
            callbacks.append(lc.FeatureDistillation(network(project.made()), [last], FeatureMSE()))
        return Trainer(max_epochs=epochs, callbacks=callbacks, **QUIET)

    first = trainer(1)
    first.fit(module, data)
    first.save_checkpoint(folder / "a.ckpt")
    assert structure_of(network(module)).applied.keys() == {lc.LayerRemoval.kind, *(method.kind for method in METHODS)}
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
    teacher = None if project.teaching is None else partial(lc.KnowledgeDistillation, loss=project.teaching)
    module = project.made()
    removed = one_less(network(module), example_of(module, project.data().train_dataloader()))
    stages = {
        "fewer": Stage({lc.LayerRemoval.kind: lc.LayerRemoval()}, FromFile(removed), epochs=1),
        "all": Stage({method.kind: method() for method in SEARCHED}, planner, teacher, epochs=1),
    }
    make = partial(Trainer, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    result = lc.compress(
        project.module(), project.data(), stages, folder=folder, make_trainer=make, metric="test_loss",
        make_logger=partial(CSVLogger, name=""), network=project.network,
    )  # fmt: skip
    assert result.plan.layers
    lc.load(folder / "model.safetensors", project.made())
