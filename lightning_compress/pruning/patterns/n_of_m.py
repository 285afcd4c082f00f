"""N:M: of each ``m`` neighboring inputs of an output, ``n`` weights stay; 2:4 runs at twice the speed on NVIDIA GPUs.

    of |w[o, m g]| ... |w[o, m g + m - 1]| the n largest stay,      for each output o, group g and position of a kernel

Source: Mishra et al. 2021, Accelerating Sparse Deep Neural Networks (arXiv 2104.08378). The groups run along the input
channels. The density is n / m or 1: nothing in between. Use 2:4 where that hardware runs the network; elsewhere any
half of the weights is more accurate. It breaks on layers whose inputs m does not divide, which are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Number
from lightning_compress.core.profile import LayerProfile
from lightning_compress.pruning.patterns.pattern import Pattern


@final
@dataclass(frozen=True)
class NofM(Pattern):
    """Keeps the ``n`` highest scores of each group of ``m``.

    Raises:
        CompressError: not ``0 < n < m``.
    """

    kind: ClassVar[str] = "n_of_m"

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise CompressError(f"NofM: n must be above 0 and below m, got {self.n}:{self.m}")

    @override
    def unit(self, layer: LayerProfile) -> int:
        return 1

    @override
    def kept(self, layer: LayerProfile, density: Number) -> int:
        if density == 1:
            return layer.weights
        inputs = layer.in_channels // layer.groups
        if inputs % self.m:
            raise CompressError(
                f"pruning: layer {layer.name!r} has {inputs} inputs for each output, which {self.n}:{self.m} sparsity "
                f"cannot divide; leave it out of the plan, or set its density to 1"
            )
        if abs(density * self.m - self.n) > 1e-9:
            raise CompressError(
                f"pruning: density of layer {layer.name!r} must be {self.n / self.m} or 1 with {self.n}:{self.m} "
                f"sparsity, got {density}"
            )
        return layer.weights * self.n // self.m

    @override
    def unit_scores(self, layer: LayerProfile, scores: Tensor) -> Tensor:
        return scores.flatten()

    @override
    def mask(self, layer: LayerProfile, scores: Tensor, kept: int) -> Tensor:
        if kept == layer.weights:
            return torch.ones_like(scores, dtype=torch.bool)
        groups = scores.movedim(1, -1)  # (out, kernel..., in)
        rows = groups.reshape(-1, self.m)
        # A schedule on its way passes more than n / m: each group keeps its share, rounded up.
        each = -(-kept * self.m // layer.weights)
        order = rows.sort(dim=1, descending=True, stable=True).indices
        mask = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order[:, :each], True)
        return mask.view(groups.shape).movedim(-1, 1).contiguous()
