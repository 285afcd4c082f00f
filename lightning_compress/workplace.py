"""Where networks are changed: least squares, k-means of many weights and the like take minutes on a CPU."""

from __future__ import annotations

import torch
from lightning import Trainer


def workplace(trainer: Trainer) -> torch.device:
    """The device that the trainer trains on; the CPU where that is Apple's, which has no float64."""
    device = trainer.strategy.root_device
    return torch.device("cpu") if device.type == "mps" else device
