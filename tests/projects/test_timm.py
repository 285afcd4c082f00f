"""A project with hyperparameters and a backbone of timm: all callbacks, checkpoint, file; no edit of the module."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import lightning_compress as lc
from lightning_compress.surgery.measure import measure
from lightning_compress.testing.toys import QUIET

timm = pytest.importorskip("timm")

BACKBONES = {
    "vit_tiny_patch16_224": {"img_size": 16, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3},
    "convnextv2_atto": {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 24)},
}


class Classifier(LightningModule):
    """A module as people write it."""

    def __init__(self, backbone: str, lr: float = 1e-3, **settings) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = timm.create_model(backbone, pretrained=False, num_classes=4, **settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch, batch_idx):
        images, labels = batch["image"], batch["label"]
        return F.cross_entropy(self(F.interpolate(images, size=16 if "vit" in self.hparams.backbone else 32)), labels)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)


def loader() -> DataLoader:
    images = torch.randn(16, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    rows = [{"label": i % 4, "image": image} for i, (image,) in enumerate(TensorDataset(images))]
    return DataLoader(rows, 8)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_backbone_is_pruned_sparsified_quantized_and_distilled(backbone, tmp_path):
    torch.manual_seed(0)
    module = Classifier(backbone, **BACKBONES[backbone])
    teacher = Classifier(backbone, **BACKBONES[backbone])
    size = 16 if "vit" in backbone else 32
    choices = lc.ChannelPruning().choices(module.model, *profiled(module, size))
    layers = [choice.layer for choice in choices]
    callbacks = [
        lc.ChannelPruning({choice.layer: {choice.knob: 0.5} for choice in choices}),
        lc.WeightPruning({layers[0]: {"density": 0.5}}),
        lc.QuantizationAwareTraining({layer: {"weight_bits": 4, "act_bits": 8} for layer in layers}),
        lc.KnowledgeDistillation(teacher),
    ]
    trainer = Trainer(max_epochs=1, callbacks=callbacks, **QUIET)
    trainer.fit(module, loader())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    fresh = Classifier(backbone, **BACKBONES[backbone])
    Trainer(max_epochs=2, callbacks=callbacks, **QUIET).fit(fresh, loader(), ckpt_path=tmp_path / "a.ckpt")
    lc.save(module, tmp_path / "a.safetensors")
    loaded = lc.load(tmp_path / "a.safetensors", Classifier(backbone, **BACKBONES[backbone]))
    x = torch.randn(2, 3, size, size)
    torch.testing.assert_close(loaded.eval()(x), module.eval()(x), rtol=1e-3, atol=1e-3)


def profiled(module: Classifier, size: int):
    example = torch.zeros(2, 3, size, size)
    return measure(module.model, example), example
