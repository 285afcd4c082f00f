"""``torch.nn.MultiheadAttention`` in a form through which channels can be followed.

torch computes it in one function that reads weights itself. Here each projection is a layer of its own.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_compress.surgery.replacement import replace_modules
from lightning_compress.surgery.thin_attention import PARTS, can_be_thin


class Projection(nn.Linear):
    """One third of the matrix, for the queries, the keys or the values."""


class FollowedAttention(nn.Module):
    """Takes and gives tensors of the same shapes, for which one head is enough.

    Args:
        old: the attention that it stands for.
    """

    def __init__(self, old: Any) -> None:
        super().__init__()
        rows, width = old.in_proj_weight.shape
        place = {"device": old.in_proj_weight.device, "dtype": old.in_proj_weight.dtype}
        self.query, self.key, self.value = (Projection(width, rows // PARTS, **place) for _ in range(PARTS))
        self.out_proj = nn.Linear(rows // PARTS, len(old.out_proj.weight), **place)
        self.num_heads, self.batch_first = old.num_heads, old.batch_first
        self.in_proj_bias = None  # nn.TransformerEncoderLayer asks for it, and then calls this

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what has the shapes of outputs and attention weights; masks change no shape."""
        turn = query.dim() > 2 and not self.batch_first
        q, k, v = self.query(query), self.key(key), self.value(value)
        if turn:
            q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        weights = (q @ k.transpose(-1, -2)).softmax(-1)
        output = weights @ v
        output = self.out_proj(output.transpose(0, 1) if turn else output)
        if not need_weights:
            return output, None
        return output, weights if average_attn_weights else weights.unsqueeze(-3).expand(-1, self.num_heads, -1, -1)


def make_followable(net: nn.Module) -> None:
    """Put such attention in the place of torch's, in place.

    Args:
        net: a copy, which is thrown away.
    """
    found = {name: module for name, module in net.named_modules() if name and can_be_thin(module)}
    replace_modules(net, {name: FollowedAttention(module) for name, module in found.items()})
