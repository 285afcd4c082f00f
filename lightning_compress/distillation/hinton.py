"""Hinton's distillation: the student's softened class probabilities follow the teacher's.

    L = T^2 KL( softmax(t / T) || softmax(s / T) ),      mean over the batch

Source: Hinton, Vinyals, Dean 2015 (arXiv 1503.02531, section 2). The factor T^2 keeps the size of the gradient when T
changes. A high temperature helps fp32 students and harms low-bit ones: for W3A8 ResNet-20 on CIFAR-10 the Distiller
project published 80.0 % at T = 5 against 91.6 % at T = 1 (examples/quantization, preact_resnet_cifar_dorefa.yaml).
Use it for classes that exclude each other. It breaks elsewhere: with several labels at once, and in regressions, take
LogitMSE.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import final

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.distillation.dimensions import check_dim, found_dim
from lightning_compress.distillation.loss import DistillationLoss


@final
@dataclass(frozen=True)
class Hinton(DistillationLoss):
    """KL divergence between softened class probabilities.

    Args:
        temperature: T, above 0 and finite.
        dim: of the classes: 1 as for torch's ``cross_entropy``, -1 for outputs ``(batch, tokens, classes)``. None is 1;
            outputs of three dimensions, where both are usual, are then refused.

    Raises:
        CompressError: T or ``dim`` is out of range, or, when called, there are not two classes, or it is not known
            where they are.
    """

    temperature: float = 1.0
    dim: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < inf:
            raise CompressError(f"Hinton: temperature must be above 0 and finite, got {self.temperature}")
        check_dim(self.dim, "Hinton")

    @override
    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        dim = found_dim(student, self.dim, "Hinton", "classes") if student.dim() > 1 else 0
        if not dim or student.shape[dim] < 2:
            raise CompressError(
                f"Hinton: needs the logits of two classes or more, shape (batch, classes), got outputs of shape "
                f"{tuple(student.shape)}; for one output, as in a regression, use LogitMSE (compress/loss=logit_mse)"
            )
        log_s = F.log_softmax(student / self.temperature, dim=dim)
        log_t = F.log_softmax(teacher.detach() / self.temperature, dim=dim)
        return F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(dim).mean() * self.temperature**2
