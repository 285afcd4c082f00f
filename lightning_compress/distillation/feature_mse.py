"""FitNets' hints: the student's features follow the teacher's, through a linear map where their widths differ.

    L = mean (s M - t)^2,      M = argmin_M sum |s M - t|^2 over all positions of the batch;  M = 1 for equal widths

Source: Romero et al. 2015, FitNets (arXiv 1412.6550, section 2.2, eq. 3). Ours: the paper trains its regressor, here it
is the least-squares solution (with an offset and a slight ridge) of each batch, so that nothing is added to the
module, the optimizer or a checkpoint. No gradient goes through ``M``: at the optimum it would be zero. Use it for
layers with the same work. It breaks when a batch has fewer positions than the student has channels, as after global
pooling with a small batch: any features then fit, and the term says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_compress.distillation.feature_loss import FeatureLoss

RIDGE = 1e-5  # of the mean power of the student's channels; keeps the solution finite where channels are equal


@final
@dataclass(frozen=True)
class FeatureMSE(FeatureLoss):
    """Mean squared difference of the features."""

    @override
    def pair(self, student: Tensor, teacher: Tensor) -> Tensor:
        if student.shape[1] == teacher.shape[1]:
            return F.mse_loss(student, teacher)
        student, teacher = _rows(student), _rows(teacher)
        student, teacher = student - student.mean(0), teacher - teacher.mean(0)
        return F.mse_loss(student @ least_squares_map(student, teacher), teacher)


def _rows(x: Tensor) -> Tensor:
    """Return features as a matrix of positions by channels."""
    return x.movedim(1, -1).flatten(0, -2)


@torch.no_grad()
def least_squares_map(source: Tensor, target: Tensor) -> Tensor:
    """Return the matrix that takes centred ``source (n, a)`` nearest to ``target (n, b)``; shape ``(a, b)``."""
    power = source.T @ source
    ridge = RIDGE * power.diagonal().mean() + torch.finfo(power.dtype).tiny
    return torch.linalg.solve(power + ridge * torch.eye(len(power), device=power.device), source.T @ target)
