"""An image classifier as a plain LightningModule. It knows nothing of compression: callbacks do that from outside."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override


def in_fast_layout(x: Tensor) -> Tensor:
    """Return images in the layout in which cuDNN and oneDNN compute, where that is safe.

    From another layout they copy back and forth around every convolution. On processors without AVX-512, oneDNN's
    strided 1x1 convolutions of fewer than 7 channels, as pruning makes them, write beyond their memory in this layout
    (torch 2.14; glibc's MALLOC_CHECK_ ends them), so images stay as they are there.

    Args:
        x: shape ``(batch, channels, height, width)``.
    """
    fast = x.device.type != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    return x.to(memory_format=torch.channels_last) if fast else x


class ImageClassifier(LightningModule):
    """Cross entropy, SGD with Nesterov momentum, one cycle of the learning rate.

    Args:
        net: ``(batch, channels, height, width) -> (batch, num_classes)``.
        num_classes: of the data.
        lr: peak learning rate.
        weight_decay, momentum: of SGD.
        label_smoothing: of the training loss.
        warmup: share of the steps in which the learning rate rises.
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        lr: float = 0.1,
        weight_decay: float = 5e-4,
        momentum: float = 0.9,
        label_smoothing: float = 0.0,
        warmup: float = 0.2,
    ) -> None:
        super().__init__()
        self.net = net
        self.lr, self.weight_decay, self.momentum = lr, weight_decay, momentum
        self.label_smoothing, self.warmup = label_smoothing, warmup
        self.accuracy = nn.ModuleDict(
            {stage: MulticlassAccuracy(num_classes, average="micro") for stage in ("val", "test")}
        )

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.net(in_fast_layout(x))

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y, label_smoothing=self.label_smoothing)
        self.log("train_loss", loss)
        return loss

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("val", batch)

    @override
    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        x, y = batch
        logits = self(x)
        accuracy = cast(MulticlassAccuracy, self.accuracy[stage])
        accuracy.update(logits, y)
        self.log(f"{stage}_loss", F.cross_entropy(logits, y), batch_size=len(y), prog_bar=True)
        self.log(f"{stage}_acc", accuracy, batch_size=len(y), prog_bar=True)

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = torch.optim.SGD(
            self.parameters(), self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.momentum > 0
        )
        steps = max(int(self.trainer.estimated_stepping_batches), 2)
        warmup = min(max(self.warmup, 1.5 / steps), 1.0)  # a rise of exactly one step divides by zero in OneCycleLR
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.lr, steps, pct_start=warmup, cycle_momentum=False
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
