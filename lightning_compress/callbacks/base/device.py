"""Select the device for surgery and candidate evaluation.

Least squares, k-means of many weights and the like take minutes on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning import Trainer

CPU = torch.device("cpu")


def surgery_device(trainer: Trainer) -> torch.device:
    """Return the trainer's root device, or the CPU on MPS (no float64)."""
    device = trainer.strategy.root_device
    return CPU if device.type == "mps" else device


def trains_on(device: torch.device) -> dict[str, Any]:
    """Return the settings of a ``Trainer`` that uses this device alone.

    Where it is not there, as in a worker that sees only the accelerators that it reserved, they say the first one that
    is, or the CPU.
    """
    if device.type == "cpu":
        return {"accelerator": "cpu", "devices": 1}
    is_there = (device.index or 0) < torch.accelerator.device_count()
    return {"accelerator": "auto", "devices": [device.index or 0] if is_there else 1}
