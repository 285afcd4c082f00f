"""What every distillation loss is: student and teacher outputs -> a scalar."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class DistillationLoss(ABC):
    """A mean over the batch, zero or more, with no gradient to the teacher."""

    @abstractmethod
    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss.

        Args:
            student, teacher: logits, shape ``(batch, classes)`` or ``(batch, classes, ...)``.

        Returns:
            A scalar.
        """
