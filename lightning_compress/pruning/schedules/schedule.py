"""What every schedule is: a function of training progress alone, so that a resumed training goes on the same."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Schedule(ABC):
    """Share of the final sparsity that is reached after a share of the training."""

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """From 0 (dense) to 1 (the plan's density), never falling; 1 at ``progress`` 1.

        Args:
            progress: optimizer steps done over all steps, in [0, 1].
        """
