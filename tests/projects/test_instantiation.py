"""Every callback with every default, made by LightningCLI and by lightning-hydra-template's instantiate_callbacks."""

from __future__ import annotations

import inspect
import json

import hydra
import pytest
import torch
import torch.nn.functional as F
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_compress as lc

jsonargparse = pytest.importorskip("jsonargparse")

TEACHER = {"class_path": "torch.nn.Identity"}
ARGUMENTS = {
    "KnowledgeDistillation": {"teacher": TEACHER},
    "FeatureDistillation": {"teacher": TEACHER, "layers": ["a"]},
}
KINDS = [getattr(lc, name) for name in lc.__all__]
CALLBACKS = [kind for kind in KINDS if inspect.isclass(kind) and issubclass(kind, Callback)]
ALL = pytest.mark.parametrize("kind", CALLBACKS, ids=lambda kind: kind.__name__)


def path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}"


@ALL
def test_jsonargparse_makes_it_and_reads_its_own_dump(kind):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[Callback])
    config = [{"class_path": path(kind), "init_args": ARGUMENTS.get(kind.__name__, {})}]
    parsed = parser.parse_args([f"--callbacks={json.dumps(config)}"])
    again = parser.parse_string(parser.dump(parsed))  # as LightningCLI saves and reads its config.yaml
    for values in (parsed, again):
        assert type(parser.instantiate_classes(values).callbacks[0]) is kind


def instantiate_callbacks(config: DictConfig) -> list[Callback]:
    """Instantiate callbacks as the template does."""
    found = [part for part in config.values() if isinstance(part, DictConfig) and "_target_" in part]
    return [hydra.utils.instantiate(part) for part in found]


@ALL
def test_hydra_makes_it_among_the_callbacks_of_a_template(kind):
    given = {key: {"_target_": TEACHER["class_path"]} if value is TEACHER else value
             for key, value in ARGUMENTS.get(kind.__name__, {}).items()}  # fmt: skip
    config = OmegaConf.create({"mine": {"_target_": path(kind), **given}, "nothing": None})
    assert [type(callback) for callback in instantiate_callbacks(config)] == [kind]


class AutoEncoder(LightningModule):
    """A small one whose arguments come from a file."""

    def __init__(self, width: int = 16, lr: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))
        self.decoder = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 8))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.mse_loss(self.decoder(self.encoder(batch[0].flatten(1))), batch[0].flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.hparams.lr)


class Numbers(LightningDataModule):
    """Random numbers in images of 2x4."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(torch.randn(32, 2, 4, generator=torch.Generator().manual_seed(0))), 8)


def test_a_command_line_trains_with_callbacks_of_its_file(tmp_path):
    cli_module = pytest.importorskip("lightning.pytorch.cli")
    AutoEncoder.example_input_array = torch.zeros(2, 8)
    callbacks = [
        {"class_path": "lightning_compress.ChannelPruning", "init_args": {"plan": {"encoder.0": {"channels": 0.5}}}},
        {"class_path": "lightning_compress.QuantizationAwareTraining",
         "init_args": {"plan": {"encoder.0": {"weight_bits": 4, "act_bits": 8}}}},
    ]  # fmt: skip
    trainer = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
               "enable_progress_bar": False, "enable_model_summary": False, "callbacks": callbacks}  # fmt: skip
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"trainer": trainer, "model": {"width": 12}}))
    cli = cli_module.LightningCLI(
        AutoEncoder, Numbers, args=["fit", f"--config={file}"], save_config_callback=None, seed_everything_default=0
    )
    assert cli.model.encoder[0].out_features == 6
    lc.save(cli.model, tmp_path / "a.safetensors")
    lc.load(tmp_path / "a.safetensors", AutoEncoder(width=12))
