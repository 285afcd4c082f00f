"""Cubic: sparsity rises fast while there is much to spare, then slowly.

    share = 1 - (1 - p)^3,      p = (progress - begin) / (end - begin), within 0 and 1

Source: Zhu and Gupta 2017 (arXiv 1710.01878, eq. 1). The steps after ``end`` are fine-tuning at the final density.
Use it with tens of epochs; it breaks with one or two, when ``end`` comes just before the training's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.pruning.schedules.schedule import Schedule


@final
@dataclass(frozen=True)
class Cubic(Schedule):
    """Gradual pruning between two shares of the training.

    Raises:
        CompressError: not ``0 <= begin < end <= 1``.
    """

    begin: float = 0.0
    end: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end <= 1:
            raise CompressError(f"Cubic: needs 0 <= begin < end <= 1, got begin {self.begin} and end {self.end}")

    @override
    def __call__(self, progress: float) -> float:
        position = min(max((progress - self.begin) / (self.end - self.begin), 0.0), 1.0)
        return 1 - (1 - position) ** 3
