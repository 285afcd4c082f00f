"""Attention transfer: where the student's features are strong, as a map over the image, follows the teacher.

    Q = sum_c A_c^2, flattened;      L = 1/2 mean over the batch of || Q_s / ||Q_s|| - Q_t / ||Q_t|| ||^2

Source: Zagoruyko and Komodakis 2017 (arXiv 1612.03928, section 3.1, eq. 2). The paper writes the norm, its published
code squares it; so does this, as the norm has no gradient where the maps agree. It has no parameters and takes any two
widths. Use it for the ends of stages of convolutional networks. It breaks where there is no map, after global pooling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.distillation.dimensions import found_dim
from lightning_compress.distillation.feature_loss import FeatureLoss


@final
@dataclass(frozen=True)
class AttentionTransfer(FeatureLoss):
    """Half the squared distance of the normalized attention maps."""

    @override
    def pair(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.dim is None:
            found_dim(student, None, "AttentionTransfer", "channels")
        if student[0, 0].numel() < 2:
            raise CompressError(
                f"AttentionTransfer: a feature of shape {tuple(student.shape)} has no spatial map; name a layer before "
                f"the pooling, or use FeatureMSE"
            )
        difference = attention(student) - attention(teacher)
        return difference.square().sum(1).mean() / 2


def attention(x: Tensor) -> Tensor:
    """Return the attention map of each sample, ``(batch, positions)``, of length one."""
    return F.normalize(x.square().sum(1).flatten(1), dim=1, eps=torch.finfo(x.dtype).tiny)
