"""The weight of a layer under ADMM: free at first, with a duplicate and a dual; then codes, and trained values.

Source: Yang et al. 2020 (arXiv 1910.05897); the callback JointSparsityQuantization drives it. All of ADMM's state is
here, so that checkpoints hold it and a training resumes exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.quantization.kmeans import Codebook as Found
from lightning_compress.quantization.quantizers.codebook import Codebook, nearest

MOST_BITS = 8


@final
class JointCodebook(Codebook):
    """A codebook whose bits come out of an optimization.

    Args:
        weight_shape: of the weight.

    Attributes:
        duplicate, dual: V and Y of ADMM, in the weight's shape.
        width: bits of a code.
        kept: weights that the last projection kept.
    """

    kind: ClassVar[str] = "joint_codebook"

    duplicate: Tensor
    dual: Tensor
    width: Tensor
    kept: Tensor

    def __init__(self, weight_shape: Sequence[int]) -> None:
        super().__init__(MOST_BITS, (), weight_shape)
        shape = tuple(weight_shape)
        self.register_buffer("duplicate", torch.zeros(shape))
        self.register_buffer("dual", torch.zeros(shape))
        self.register_buffer("width", torch.tensor(MOST_BITS))
        self.register_buffer("kept", torch.tensor(0))
        self.frozen.fill_(False)

    @override
    def config(self) -> dict[str, Any]:
        return {"weight_shape": list(self.indices.shape)}

    @property
    @override
    def bits(self) -> int:
        return int(self.width)

    @property
    @override
    def used(self) -> Tensor:
        return self.values[: 2**self.bits]

    @torch.no_grad()
    def freeze(self, weight: Tensor, found: Found, bits: int) -> None:
        """Freeze: from now on each weight is one of the values found.

        Args:
            weight: the raw weight.
            found: k-means of its kept part, with at most ``2 ** bits`` values.
            bits: of a code.
        """
        self.width.fill_(bits)
        centroids = torch.from_numpy(found.centroids).to(self.values) if len(found.centroids) else self.values[:1] * 0
        nn.init.zeros_(self.values)
        self.values[: 2**bits] = centroids.repeat(2**bits // len(centroids) + 1)[: 2**bits]
        self.keep_codes(nearest(weight.detach(), centroids), weight != 0)
        self.frozen.fill_(True)
