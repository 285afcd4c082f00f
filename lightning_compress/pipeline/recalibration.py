"""Re-estimate the statistics of batch norms (EagleEye, arXiv 2007.02491, section 3)."""

from __future__ import annotations

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.nn.modules.batchnorm import _BatchNorm


class Recalibrate(Callback):
    """Re-estimate batch-norm statistics as a plain average over a validation pass."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.norms = [
            (m, m.momentum) for m in pl_module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats
        ]
        for norm, _ in self.norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative average
            norm.train()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for norm, momentum in self.norms:
            norm.momentum = momentum
            norm.eval()
