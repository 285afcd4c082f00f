"""A toy network, a LightningModule that was not written for us, and a learnable toy task."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_compress.vision.data.images import EpochBatches

CLASSES, SIZE = 4, 8
QUIET: dict[str, Any] = {  # settings of a Trainer that writes and shows nothing
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


class ToyNet(nn.Module):
    """conv-bn-relu, a residual block, pooling, a linear head: ``(batch, 1, 8, 8) -> (batch, 4)``."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.conv1 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(2 * width)
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(4 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(self.pool(x).flatten(1))


class Routed(nn.Module):
    """Sends rows to one of two layers, of which one gets none: ``(batch, 4) -> (batch, 4)``."""

    def __init__(self) -> None:
        super().__init__()
        self.dark, self.bright = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        bright = x.mean(1) > 1e9
        return torch.cat([self.dark(x[~bright]).relu(), self.bright(x[bright]).relu()])


class PlainModule(LightningModule):
    """A user's module: its own step, its own optimizer, and nothing of compression."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ToyNet()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.log("val_acc", (logits.argmax(1) == y).float().mean())
        self.log("val_loss", F.cross_entropy(logits, y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class FullModule(PlainModule):
    """A :class:`PlainModule` with a test and a learning rate to set, as a whole run needs it."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__()
        self.lr = lr

    def test_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("test_acc", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class _Quadrants(Dataset[tuple[Tensor, Tensor]]):
    """Noise with one brighter quadrant, which is the class."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(CLASSES, (count,), generator=generator)
        self.images = torch.randn(count, 1, SIZE, SIZE, generator=generator)
        half = SIZE // 2
        for image, label in zip(self.images, self.labels.tolist(), strict=True):
            row, column = divmod(label, 2)
            image[:, row * half : (row + 1) * half, column * half : (column + 1) * half] += 1.0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]


def toy_data(seed: int, batch_size: int = 32) -> tuple[DataLoader, DataLoader]:
    """Train (256 images, an order that depends on seed and epoch alone) and validation (64) loaders."""
    train, val = _Quadrants(256, seed), _Quadrants(64, seed + 1)
    order = EpochBatches(len(train), batch_size, seed)
    return DataLoader(train, None, sampler=order), DataLoader(val, batch_size)


class ToyData(LightningDataModule):
    """:func:`toy_data` of seed 0, without test data."""

    def train_dataloader(self) -> DataLoader:
        return toy_data(0)[0]

    def val_dataloader(self) -> DataLoader:
        return toy_data(0)[1]


class FullData(ToyData):
    """:class:`ToyData` that is tested on its validation data."""

    def test_dataloader(self) -> DataLoader:
        return self.val_dataloader()
