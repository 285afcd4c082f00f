"""A GAN with manual optimization, whose generator alone is compressed and saved; loaders in place of a data module."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_compress as lc
from lightning_compress.pipeline.planners.uniform import Uniform
from lightning_compress.pipeline.stage import Stage
from lightning_compress.testing.toys import QUIET

NOISE = 8


class Generator(nn.Module):
    """Noise to an image of 8x8."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.body, self.last = (
            nn.Linear(NOISE, 16 * 16),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.Conv2d(16, 1, 1),
        )
        self.norm = nn.BatchNorm2d(16)

    def forward(self, z: Tensor) -> Tensor:
        x = F.interpolate(self.start(z).view(-1, 16, 4, 4), scale_factor=2)
        return self.last(F.relu(self.norm(self.body(x)))).tanh()


class GAN(LightningModule):
    """Trains both networks by hand; validation needs no discriminator."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = Generator()
        self.discriminator = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 1))

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z)

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        real = batch[0]
        self.toggle_optimizer(first)
        fake = self(torch.randn(len(real), NOISE))
        score = self.discriminator(fake)
        self.manual_backward(F.binary_cross_entropy_with_logits(score, torch.ones_like(score)))
        first.step()
        first.zero_grad()
        self.untoggle_optimizer(first)
        self.toggle_optimizer(second)
        scores = torch.cat([self.discriminator(real), self.discriminator(fake.detach())])
        labels = torch.cat([torch.ones(len(real), 1), torch.zeros(len(real), 1)])
        self.manual_backward(F.binary_cross_entropy_with_logits(scores, labels))
        second.step()
        second.zero_grad()
        self.untoggle_optimizer(second)

    def validation_step(self, batch, batch_idx):
        fake = self(torch.zeros(len(batch[0]), NOISE))
        self.log("val_gap", (fake.mean() - batch[0].mean()).abs())

    def test_step(self, batch, batch_idx):
        self.log("test_gap", self(torch.zeros(len(batch[0]), NOISE)).abs().mean())

    def configure_optimizers(self):
        return [torch.optim.Adam(net.parameters(), 1e-3) for net in (self.generator, self.discriminator)], []


def loader() -> DataLoader:
    return DataLoader(TensorDataset(torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))), 8)


def test_a_generator_named_by_attribute_is_trained_checkpointed_and_saved_alone(tmp_path):
    gan = GAN()
    gan.compressed_network = "generator"
    callbacks = [
        lc.ChannelPruning({"body": {"channels": 0.5}}), lc.QuantizationAwareTraining({"body": {"weight_bits": 4}}),
    ]  # fmt: skip
    trainer = Trainer(max_epochs=1, callbacks=callbacks, **QUIET)
    trainer.fit(gan, loader())
    assert gan.generator.body.out_channels == 8
    assert gan.discriminator[0].out_channels == 8
    lc.save(gan, tmp_path / "g.safetensors")
    alone = lc.load(tmp_path / "g.safetensors", Generator())
    z = torch.randn(2, NOISE)
    torch.testing.assert_close(alone.eval()(z), gan.eval()(z), atol=1e-5, rtol=1e-4)


def test_a_generator_named_in_the_call_is_searched_with_loaders_alone(tmp_path):
    stage = Stage({"pruning": lc.ChannelPruning()}, Uniform({"channels": 0.5}), epochs=1)
    make = partial(Trainer, accelerator="cpu", enable_progress_bar=False)
    gan = GAN()
    result = lc.compress(
        gan,
        loader(),
        {"prune": stage},
        folder=tmp_path,
        make_trainer=make,
        metric="test_gap",
        val=loader(),
        test=loader(),
        network="generator",
    )
    assert set(result.plan.layers) <= {"start", "body"}
    assert result.plan.layers
    lc.load(tmp_path / "model.safetensors", Generator())
    assert gan.generator.body.out_channels == 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "generatr"}, "GAN: the network to compress is said to be 'generatr', .* did you mean 'generator'"),
        ({"val": loader()}, "no test loader; pass test= beside it"),
        ({"val": loader(), "test": loader(), "train": loader()}, "train data is given twice"),
    ],
)
def test_what_is_wrong_with_the_call_is_told(tmp_path, settings, message):
    with pytest.raises(lc.CompressError, match=message):
        lc.compress(GAN(), loader(), {}, folder=tmp_path, **settings)


def test_modules_of_the_old_library_are_refused_with_the_line_to_change(tmp_path):
    old = type("LightningModule", (nn.Module,), {"__module__": "pytorch_lightning.core.module"})
    mine = type("Mine", (old,), {})
    for touch in (
        lambda: lc.compress(mine(), None, {}, folder=tmp_path),
        lambda: lc.KnowledgeDistillation(mine()),
        lambda: lc.ChannelPruning({}).setup(None, mine(), "fit"),
    ):
        with pytest.raises(lc.CompressError, match=r"Mine is a LightningModule of pytorch_lightning.* write 'import"):
            touch()
