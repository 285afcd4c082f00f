"""One-shot: the plan's density from the first step on; the whole training is fine-tuning.

    share = 1

Use it for short trainings, where a ramp leaves too few steps at the end. It breaks at extreme densities: what is lost
at once is not learned again, and the magnitudes of the trained network are all that chose it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from typing_extensions import override

from lightning_compress.pruning.schedules.schedule import Schedule


@final
@dataclass(frozen=True)
class OneShot(Schedule):
    """All at once."""

    @override
    def __call__(self, progress: float) -> float:
        return 1.0
