"""Modules and data that are not ours, through lc.compress and train.py: several inputs, no accuracy, own names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from textwrap import dedent

import pytest
import torch
import torch.nn.functional as F
from lightning import LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

import lightning_compress as lc
from lightning_compress.distillation.logit_mse import LogitMSE
from lightning_compress.pipeline.checkpoint import load_checkpoint
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.planners.uniform import Uniform
from lightning_compress.pipeline.stage import Stage
from lightning_compress.pipeline.taught_outputs import check_taught_outputs
from lightning_compress.testing.toys import PlainModule

ROOT = Path(__file__).parent.parent


class Sum(nn.Module):
    """A network of two inputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x, y):
        return self.c((self.a(x) + self.b(y)).relu())


class Own(LightningModule):
    """Reads dicts whose first entry is the label, and logs a loss alone."""

    example_input_array = (torch.zeros(5, 4), torch.zeros(5, 4))

    def __init__(self):
        super().__init__()
        self.net = Sum()

    def forward(self, x, y):
        return self.net(x, y)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch["x"], batch["y"]), batch["label"])

    def validation_step(self, batch, batch_idx):
        self.log("val_nll", self.training_step(batch, batch_idx))

    def test_step(self, batch, batch_idx):
        self.log("test_nll", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


class OwnData(LightningDataModule):
    """Random numbers."""

    def _loader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(0)
        rows = [
            {"label": i % 3, "x": torch.randn(4, generator=generator), "y": torch.randn(4, generator=generator)}
            for i in range(24)
        ]
        return DataLoader(rows, 8)

    train_dataloader = val_dataloader = test_dataloader = _loader


CPU = partial(Trainer, accelerator="cpu")


def stage(**settings) -> Stage:
    quantization = lc.QuantizationAwareTraining()
    return Stage({"quantization": quantization}, Uniform({"weight_bits": 4, "act_bits": 8}), epochs=1, **settings)


def test_several_inputs_and_any_metric_go_all_the_way(tmp_path):
    make = partial(Trainer, accelerator="cpu", enable_progress_bar=False)
    result = lc.compress(Own(), OwnData(), {"quantize": stage()}, folder=tmp_path, make_trainer=make, metric="test_nll")
    assert result.compressed.bytes < result.dense.bytes
    assert set(result.plan.layers) == {"a", "b", "c"}


def test_inputs_that_the_network_does_not_take_are_told_before_anything_else(tmp_path):
    module = Own()
    module.example_input_array = (torch.zeros(5, 3), torch.zeros(5, 3))
    with pytest.raises(lc.CompressError, match=r"Own: its network does not run on .* set example_input_array"):
        lc.compress(module, OwnData(), {"quantize": stage()}, folder=tmp_path, make_trainer=CPU)


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_loss_that_does_not_take_the_outputs_is_told_before_a_search(own, tmp_path, epochs, monkeypatch):
    monkeypatch.syspath_prepend(str(own))
    mine = import_module("mine")
    quantization = lc.QuantizationAwareTraining()
    uniform = Uniform({"weight_bits": 4, "act_bits": 8})
    stages = {"quantize": Stage({"a": quantization}, uniform, lc.KnowledgeDistillation, epochs)}
    run = RunContext.begun(mine.Regressor(), mine.Numbers(), tmp_path, make_trainer=CPU)
    if not epochs:  # nothing is taught
        check_taught_outputs(run, stages)
        return
    with pytest.raises(lc.CompressError, match=r"stage quantize: Hinton: needs the logits of two classes .*logit_mse"):
        check_taught_outputs(run, stages)
    fitting = partial(lc.KnowledgeDistillation, loss=LogitMSE())
    check_taught_outputs(run, {"quantize": replace(stages["quantize"], distillation=fitting)})


class NoTensors(OwnData):
    """Has nothing that a network could take."""

    def val_dataloader(self):
        return DataLoader(["a", "b"], 2)


class NoExample(Own):
    """Leaves its inputs to be found in the data, whose steps call no network."""

    example_input_array = None


class Nothing(Own):
    """Has no layer that could be compressed."""

    example_input_array = torch.zeros(2, 4)

    def __init__(self):
        super().__init__()
        self.net = nn.BatchNorm1d(4)


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (NoExample, NoTensors, "no example input was found for NoExample"),
        (Nothing, OwnData, "no layer with a weight"),
    ],
)
def test_a_run_without_inputs_or_layers_is_told_so(tmp_path, kind, data, message):
    with pytest.raises(lc.CompressError, match=message):
        lc.compress(kind(), data(), {"quantize": stage()}, folder=tmp_path, make_trainer=CPU)


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """Return a folder with a module of a user's and its configuration."""
    folder = tmp_path_factory.mktemp("own")
    for group, name in (("model", "Regressor"), ("data", "Numbers")):
        (folder / "conf" / group).mkdir(parents=True)
        (folder / "conf" / group / "mine.yaml").write_text(f"_target_: mine.{name}\n")
    (folder / "mine.py").write_text(
        dedent("""
        import torch
        from lightning import LightningDataModule, LightningModule
        from torch import nn
        from torch.utils.data import DataLoader, TensorDataset

        class Regressor(LightningModule):
            def __init__(self):
                super().__init__()
                self.lr = 1e-2
                self.net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
            def step(self, batch):
                return (self.net(batch[0]) - batch[1]).square().mean()
            def training_step(self, batch, batch_idx):
                assert self.lr == 1e-2  # nobody set another
                return self.step(batch)
            def validation_step(self, batch, batch_idx):
                self.log("val_mse", self.step(batch))
            def test_step(self, batch, batch_idx):
                self.log("test_mse", self.step(batch))
            def configure_optimizers(self):
                return torch.optim.Adam(self.parameters(), self.lr)

        class Numbers(LightningDataModule):
            def loader(self):
                x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
                return DataLoader(TensorDataset(x, x[:, :1] * x[:, 1:2]), 32)
            train_dataloader = val_dataloader = test_dataloader = loader
        """)
    )
    return folder


def test_a_regression_of_a_user_s_is_searched_by_its_loss(own, tmp_path):
    stage = "compress.stages.quantize"
    line = [
        sys.executable, "train.py", "--config-dir", f"{own}/conf", "+compress=drl_quant", "model=mine", "data=mine",
        "epochs=20", "compress/searcher=random", f"{stage}.planner.trials=6", f"{stage}.epochs=1",
        f"{stage}.planner.budget=3000", "compress.evaluation.monitor=val_mse",
        "compress/objective=loss_under_budget", "compress.objective.metric=val_mse",
        "compress/loss=logit_mse", "metric=test_mse", f"cache_dir={tmp_path}/cache", f"run_dir={tmp_path}/run",
    ]  # fmt: skip
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(own)}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_mse" in done.stdout
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["compressed"]["bytes"] <= 3000
    assert result["searches"]["quantize"]["best"]["this search"] < 0  # minus a loss
    assert "<h1>Regressor on Numbers" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"model.fc.weight": torch.zeros(1)}}, r"it lacks model.bn1.bias, .* and \d+ more; of another"),
        (PlainModule(), "holds a pickled object, expected a state_dict; save one with"),
        ([1, 2], "holds a list, expected a state_dict"),
    ],
)
def test_checkpoints_that_cannot_be_loaded_are_told(tmp_path, content, message):
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(lc.CompressError, match=message):
        load_checkpoint(PlainModule(), tmp_path / "a.ckpt")
