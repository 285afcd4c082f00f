"""Tell LightningModules without importing Lightning, which takes longer than loading a file for inference."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeGuard

from torch import nn

if TYPE_CHECKING:
    from lightning import LightningModule


def is_lightning_module(module: nn.Module) -> TypeGuard[LightningModule]:
    """Return whether a module is a LightningModule: it can be one only if the program has imported Lightning."""
    cls = getattr(sys.modules.get("lightning.pytorch"), "LightningModule", None)
    return cls is not None and isinstance(module, cls)
