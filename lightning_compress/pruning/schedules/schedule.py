"""Base class of schedules: functions of training progress alone, so that a resumed training is the same."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lightning_compress.core.kinds import HasKind


class Schedule(HasKind, ABC):
    """Share of the final sparsity that is reached after a share of the training."""

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """Return the share from 0 (dense) to 1 (the plan's density); never falls, and is 1 at ``progress`` 1.

        Args:
            progress: optimizer steps done over all steps, in [0, 1].
        """
