"""torchvision's attention over windows and grids (MaxViT), with fewer heads than the width of its stream holds.

torchvision gives what its heads have computed the width of the stream, so heads and stream could only go together. Here
each has a width of its own. Names and order of the weights are torchvision's, and so are all numbers: the scale is that
of the dense network.

Source: Tu et al. 2022 (MaxViT, arXiv 2204.01697, section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.surgery._torch import take_over
from lightning_compress.surgery._torchvision import partition_attention
from lightning_compress.surgery.replacement import Replacement
from lightning_compress.surgery.thin_window_attention import PARTS, TABLE, ThinWindowAttention, thin_window_form


class ThinPartitionAttention(Replacement):
    """Takes the place of torchvision's ``RelativePositionalMultiHeadAttention``.

    Attributes:
        by_head: parameter with a place for each head -> the dimension of these places.
        given, output: names of the layers that give queries, keys and values, and that read the heads.
        head_dim: features of one head.
        scale_factor: that keys are multiplied by.
    """

    kind: ClassVar[str] = "thin_partition_attention"
    by_head: ClassVar[Mapping[str, int]] = {TABLE: 1}
    given: ClassVar[str] = "to_qkv"
    output: ClassVar[str] = "merge"
    head_dim: int
    scale_factor: float
    to_qkv: nn.Linear
    merge: nn.Linear
    relative_position_index: Tensor

    @classmethod
    @override
    def like(cls, old: nn.Module, **arguments: Any) -> Self:
        if thin_partition_form(old) is not cls:
            raise CompressError(f"{cls.__name__}: expected torchvision's attention over partitions, got {old}")
        new = cls()
        take_over(new, old)
        new.head_dim, new.scale_factor = int(old.head_dim), float(old.scale_factor)
        return new.train(old.training)

    @override
    def config(self) -> dict[str, Any]:
        return {}

    @property
    def num_heads(self) -> int:
        """The number of heads that are left."""
        return self.to_qkv.out_features // (PARTS * self.head_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for tokens in partitions, both of shape ``(batch, partitions, tokens, channels)``."""
        parts = self.to_qkv(x).unflatten(3, (PARTS, -1, self.head_dim))
        queries, keys, values = parts.permute(3, 0, 1, 4, 2, 5)
        scores = queries @ (keys * self.scale_factor).transpose(-2, -1) + self.position_bias(x.shape[2])
        return self.merge((torch.softmax(scores, -1) @ values).transpose(2, 3).flatten(3))

    def position_bias(self, tokens: int) -> Tensor:
        """Return what is added to the scores of two tokens of a partition: shape ``(heads, tokens, tokens)``."""
        rows = getattr(self, TABLE)[self.relative_position_index.flatten()]
        return rows.unflatten(0, (tokens, tokens)).permute(2, 0, 1)


def thin_partition_form(module: nn.Module) -> type[ThinPartitionAttention] | None:
    """Return the class that may take the place of a module; None for what is not torchvision's attention of MaxViT.

    Args:
        module: any.
    """
    kinds = (ThinPartitionAttention, *partition_attention())
    return ThinPartitionAttention if any(type(module).forward is kind.forward for kind in kinds) else None


def torchvision_form(module: nn.Module) -> type[ThinWindowAttention | ThinPartitionAttention] | None:
    """Return the class that may take the place of attention of torchvision: over shifted windows, or over partitions.

    Args:
        module: any; None is returned for all else.
    """
    return thin_window_form(module) or thin_partition_form(module)
