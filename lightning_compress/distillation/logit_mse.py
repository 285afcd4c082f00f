"""Logit matching: the student's logits follow the teacher's.

    L = mean (s - t)^2

Source: Ba and Caruana 2014 (arXiv 1312.6184, section 2.2); N2N (arXiv 1709.06030) trains its students with it. It needs
no temperature and no labels. It breaks when the student's last layer is at few bits: logits then come in coarse steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_compress.distillation.loss import DistillationLoss


@final
@dataclass(frozen=True)
class LogitMSE(DistillationLoss):
    """Mean squared difference of the logits."""

    @override
    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        return F.mse_loss(student, teacher.detach())
