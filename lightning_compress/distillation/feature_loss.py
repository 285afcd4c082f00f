"""Base class of feature losses: lists of student and teacher features -> a scalar."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_compress.core.errors import CompressError
from lightning_compress.core.kinds import HasKind
from lightning_compress.distillation.dimensions import check_dim, found_dim


@dataclass(frozen=True)
class FeatureLoss(HasKind, ABC):
    """A sum over pairs of features of a mean over the batch; zero or more, with no gradient to the teacher.

    Args:
        dim: of the channels: 1, or -1 for features ``(batch, tokens, width)``. None is 1; features of three dimensions,
            where both are usual, are then refused where it matters.

    Raises:
        CompressError: ``dim`` is no such dimension.
    """

    dim: int | None = None

    def __post_init__(self) -> None:
        check_dim(self.dim, type(self).__name__)

    @final
    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return the loss, fp32 in mixed precision too.

        Args:
            student, teacher: features, the teacher's detached: pairs of shapes ``(batch, channels, ...)``, or with the
                channels at :attr:`dim`. Channels may differ; where spatial sizes do, both are average-pooled to the
                smaller.

        Returns:
            A scalar.

        Raises:
            CompressError: batch sizes or numbers of dimensions differ, it is not known where channels are, or the loss
                cannot take this shape.
        """
        with torch.autocast(student[0].device.type, enabled=False):
            return torch.stack([self._compared(s, t) for s, t in zip(student, teacher, strict=True)]).sum()

    def _compared(self, student: Tensor, teacher: Tensor) -> Tensor:
        if student.dim() > 1 and (self.dim is not None or student.shape != teacher.shape):
            student, teacher = (
                x.movedim(found_dim(x, self.dim, type(self).__name__, "channels"), 1) for x in (student, teacher)
            )
        return self.pair(*matched(student, teacher))

    @abstractmethod
    def pair(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of one pair: channels first, equal batch and spatial sizes, fp32, the teacher detached.

        Equal shapes come as they are where :attr:`dim` is None.
        """


def matched(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return student and teacher at the smaller of their spatial sizes, fp32, the teacher detached."""
    if student.dim() != teacher.dim() or student.dim() < 2 or len(student) != len(teacher):
        raise CompressError(
            f"feature loss: the student's feature has shape {tuple(student.shape)}, the teacher's "
            f"{tuple(teacher.shape)}; both must be (batch, channels, ...) with as many dimensions"
        )
    student, teacher = student.float(), teacher.detach().float()
    size = tuple(min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True))
    return pooled(student, size), pooled(teacher, size)


def pooled(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return ``x`` average-pooled to the spatial size, up to three dimensions."""
    if tuple(x.shape[2:]) == size:
        return x
    if len(size) > 3:
        raise CompressError(
            f"feature loss: features of {len(size)} spatial dimensions cannot be pooled to a common size {size}; "
            f"compare layers of equal sizes"
        )
    pools: tuple[Callable[[Tensor, tuple[int, ...]], Tensor], ...]
    pools = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)  # type: ignore[assignment]
    return pools[len(size) - 1](x, size)
