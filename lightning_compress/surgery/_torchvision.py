"""Hold what torchvision has no public name for, without importing it: who does not use it does not wait for it."""

from __future__ import annotations

import sys
from typing import Any

SWIN = "torchvision.models.swin_transformer"
MAXVIT = "torchvision.models.maxvit"


def window_attentions() -> tuple[Any, ...]:
    """Return torchvision's attention over shifted windows, of Swin v1 and v2; nothing where no model was imported."""
    module = sys.modules.get(SWIN)
    return () if module is None else (module.ShiftedWindowAttention, module.ShiftedWindowAttentionV2)


def partition_attention() -> tuple[Any, ...]:
    """Return torchvision's attention over windows and grids, of MaxViT; nothing where no model was imported."""
    module = sys.modules.get(MAXVIT)
    return () if module is None else (module.RelativePositionalMultiHeadAttention,)
