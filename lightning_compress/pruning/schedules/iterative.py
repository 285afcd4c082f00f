"""Iterative: prune a part, train, prune the next part.

    share = ceil(steps * p) / steps

Source: Han et al. 2015 (arXiv 1506.02626, section 3), whose rounds are one training here: each round removes an equal
part of the final sparsity, and the first comes before the first step. Use it where weights are to settle between
rounds; it breaks when a round has too few steps for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.pruning.schedules.schedule import Schedule


@final
@dataclass(frozen=True)
class Iterative(Schedule):
    """Equal parts at equal distances, the last at ``end``.

    Raises:
        CompressError: no rounds, or ``end`` not within 0 and 1.
    """

    rounds: int = 4
    end: float = 0.5

    def __post_init__(self) -> None:
        if self.rounds < 1 or not 0 < self.end <= 1:
            raise CompressError(f"Iterative: needs rounds of 1 or more and 0 < end <= 1, got {self.rounds}, {self.end}")

    @override
    def __call__(self, progress: float) -> float:
        between = max(self.rounds - 1, 1)
        return min(1 + int(min(progress / self.end, 1.0) * between + 1e-9), self.rounds) / self.rounds
