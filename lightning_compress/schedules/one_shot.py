"""One-shot: the plan's density from the first step on; the whole training is fine-tuning. Use it for short ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from lightning_compress.schedules.schedule import Schedule


@final
@dataclass(frozen=True)
class OneShot(Schedule):
    """All at once."""

    def __call__(self, progress: float) -> float:
        return 1.0
