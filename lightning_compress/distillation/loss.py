"""Base class of distillation losses: student and teacher outputs -> a scalar."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from lightning_compress.core.kinds import HasKind


class DistillationLoss(HasKind, ABC):
    """A mean over the batch, zero or more, with no gradient to the teacher."""

    @abstractmethod
    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            student, teacher: logits, the teacher's detached; shape ``(batch, classes)`` or ``(batch, classes, ...)``,
                or what the settings of the loss say.

        Returns:
            A scalar.
        """
