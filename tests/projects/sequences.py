"""Projects of audio, series and text: two inputs, separation, raw audio, spectrograms, transformers, LoRA, a GAN."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from contract import Project, Rows, Supervised
from torch import Tensor, nn

from lightning_compress.distillation.logit_mse import LogitMSE


class TCN(nn.Module):
    """Dilated convolutions over a series, and a vector that does not change."""

    def __init__(self) -> None:
        super().__init__()
        self.series = nn.ModuleList(nn.Conv1d(2 if i == 0 else 8, 8, 3, padding=2**i, dilation=2**i) for i in range(3))
        self.static, self.head = nn.Linear(3, 8), nn.Linear(16, 1)

    def forward(self, series: Tensor, static: Tensor) -> Tensor:
        for layer in self.series:
            series = F.relu(layer(series))
        return self.head(torch.cat([series.mean(2), F.relu(self.static(static))], 1))


class Forecast(Supervised):
    def __init__(self) -> None:
        super().__init__()
        self.net = TCN()

    def loss(self, batch):
        series, static, target = batch
        return F.mse_loss(self.net(series, static), target)


@dataclass
class Mixture:
    """A batch as a dataclass."""

    mix: Tensor
    sources: Tensor


def mixtures(rows: list[tuple[Tensor, Tensor]]) -> Mixture:
    return Mixture(torch.stack([mix for mix, _ in rows]), torch.stack([sources for _, sources in rows]))


class Separation(Supervised):
    """An encoder, masks for two sources by normalized blocks, and a transposed convolution back to sound."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv1d(1, 8, 4, 2, bias=False)
        self.masks = nn.Sequential(
            nn.GroupNorm(1, 8), nn.Conv1d(8, 16, 1), nn.PReLU(), nn.GroupNorm(1, 16),
            nn.Conv1d(16, 16, 3, padding=1, groups=16), nn.PReLU(), nn.Conv1d(16, 16, 1),
        )  # fmt: skip
        self.decoder = nn.ConvTranspose1d(8, 1, 4, 2, bias=False)

    def forward(self, mix: Tensor) -> Tensor:
        code = F.relu(self.encoder(mix[:, None]))
        masks = self.masks(code).sigmoid().view(len(mix), 2, 8, -1)
        return torch.stack([self.decoder(code * mask)[:, 0] for mask in masks.unbind(1)], 1)

    def loss(self, batch):
        return F.l1_loss(self(batch.mix), batch.sources)


class RawAudio(Supervised):
    """A strided network on the waveform, and the index first in the batch."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (1, 8, 8, 16)
        blocks = [nn.Sequential(nn.Conv1d(a, b, 8, 4, 2), nn.BatchNorm1d(b), nn.ReLU()) for a, b in pairwise(sizes)]
        self.model = nn.Sequential(
            *blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 4),
        )  # fmt: skip

    def loss(self, batch):
        _, wave, label = batch
        return F.cross_entropy(self.model(wave), label)


class Spectrogram(Supervised):
    """The spectrogram is made in forward, without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(32))
        self.cnn = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2),
                                 nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))  # fmt: skip

    def forward(self, wave: Tensor) -> Tensor:
        spectrum = torch.stft(wave, 32, 16, window=self.window, return_complex=True).abs().log1p()
        return self.cnn(spectrum[:, None])

    def loss(self, batch):
        return F.cross_entropy(self(batch[0]), batch[1])


class HuggingFace(Supervised):
    """A network of transformers, which computes its own loss from what the batch names."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def loss(self, batch):
        return self.net(**batch).loss


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4,
        num_channels=1, num_labels=4, hidden_dropout_prob=0.1, attn_implementation="eager",
    ))  # fmt: skip


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, num_labels=4,
    ))  # fmt: skip


def lora() -> nn.Module:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(bert(), LoraConfig(task_type="SEQ_CLS", r=8, target_modules=["query", "value"]))


class GAN(Supervised):
    """Two networks in turn by manual optimization; the generator is what is deployed."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 32))
        self.critic = nn.Sequential(nn.Linear(32, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z)

    def training_step(self, batch, batch_idx):
        real = batch[0]
        fake = self(torch.randn(len(real), 8))
        for optimizer, loss in zip(self.optimizers(), (
            lambda: -self.critic(fake).mean(),
            lambda: (self.critic(fake.detach()) - self.critic(real)).mean(),
        ), strict=True):  # fmt: skip
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(loss())
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def loss(self, batch):
        return (self(torch.zeros(len(batch[0]), 8)).mean() - batch[0].mean()).abs()

    def configure_optimizers(self):
        return [torch.optim.Adam(net.parameters(), 1e-3) for net in (self.generator, self.critic)], []


def series() -> Rows:
    return Rows(lambda g: (torch.randn(2, 16, generator=g), torch.randn(3, generator=g), torch.randn(1, generator=g)))


def sounds() -> Rows:
    return Rows(lambda g: (torch.randn(128, generator=g), torch.randn(2, 128, generator=g)), mixtures)


def waves() -> Rows:
    return Rows(lambda g: (7, torch.randn(1, 256, generator=g), torch.randint(4, (), generator=g)))


def labelled_waves() -> Rows:
    return Rows(lambda g: (torch.randn(256, generator=g), torch.randint(4, (), generator=g)))


def pixels() -> Rows:
    return Rows(lambda g: {"pixel_values": torch.randn(1, 8, 8, generator=g),
                           "labels": torch.randint(4, (), generator=g)})  # fmt: skip


def tokens() -> Rows:
    return Rows(lambda g: {"input_ids": torch.randint(40, (12,), generator=g),
                           "attention_mask": torch.ones(12, dtype=torch.long),
                           "labels": torch.randint(4, (), generator=g)})  # fmt: skip


PROJECTS = {
    "two_inputs": Project(Forecast, series, teaching=LogitMSE()),
    "separation": Project(Separation, sounds, teaching=LogitMSE()),
    "raw_audio": Project(RawAudio, waves),
    "spectrogram": Project(Spectrogram, labelled_waves),
    "vit": Project(lambda: HuggingFace(vit()), pixels),
    "bert": Project(lambda: HuggingFace(bert()), tokens),
    "lora": Project(lambda: HuggingFace(lora()), tokens),
    "gan": Project(GAN, lambda: Rows(lambda g: (torch.randn(32, generator=g),)), "generator",
                   teaching=None),
}  # fmt: skip
