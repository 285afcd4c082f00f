"""``torch.nn.MultiheadAttention`` that may have fewer heads than its width holds.

torch's own takes the size of a head for its width by the number of heads, so no head can go. Here the size of a head
stays, and the number of heads is what the matrices hold. Names and order of the weights are torch's.

Source: Vaswani et al. 2017 (arXiv 1706.03762, section 3.2.2).
"""

from __future__ import annotations

from typing import Any, ClassVar, Self, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.surgery._torch import own_parameters
from lightning_compress.surgery.replacement import Replacement

WEIGHT, BIAS = "in_proj_weight", "in_proj_bias"
PARTS = 3  # queries, keys and values, in one matrix


@final
class ThinAttention(Replacement, nn.MultiheadAttention):
    """Takes the place of a ``MultiheadAttention`` with one matrix for queries, keys and values.

    Attributes:
        head_dim: features of one head.
        num_heads: how many there are now.
        embed_dim, kdim, vdim: features of what it reads.
    """

    kind: ClassVar[str] = "thin_attention"

    @classmethod
    @override
    def like(cls, old: nn.Module, **arguments: Any) -> Self:
        if not can_be_thin(old):
            raise CompressError(f"ThinAttention: expected a MultiheadAttention of one matrix, got {old}")
        bias = own_parameters(old)[BIAS] is not None
        new = cls(old.embed_dim, old.num_heads, old.dropout, bias, batch_first=old.batch_first, device="meta")
        own_parameters(new).update(own_parameters(old))
        new.out_proj = old.out_proj
        new._qkv_same_embed_dim = False  # nn.TransformerEncoderLayer calls it, rather than read it
        return new.train(old.training)

    @override
    def config(self) -> dict[str, Any]:
        return {}

    def refresh_widths(self) -> None:
        """Set the numbers from the matrix, after its shape changed."""
        rows, width = self.in_proj_weight.shape
        self.embed_dim = self.kdim = self.vdim = width
        self.num_heads = rows // (PARTS * self.head_dim)

    @override
    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return outputs and attention weights as ``MultiheadAttention`` does; ``is_causal`` is a hint, as there."""
        batched, inputs = query.dim() > 2, [query, key, value]
        if not batched:
            inputs = [x[None] for x in inputs]
        elif not self.batch_first:
            inputs = [x.transpose(0, 1) for x in inputs]
        query, key, value = inputs[:1] * PARTS if query is key is value else inputs
        mask = _additive(attn_mask, query)
        if mask is not None and mask.dim() == 3:
            mask = mask.unflatten(0, (len(query), -1))
        if key_padding_mask is not None:
            padding = _additive(key_padding_mask.reshape(len(query), 1, 1, -1), query)
            mask = mask + padding if mask is not None and padding is not None else padding
        q, k, v = (x.unflatten(2, (-1, self.head_dim)).transpose(1, 2) for x in self.project(query, key, value))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * self.head_dim**-0.5) @ k.transpose(2, 3)
            weights = F.dropout((scores if mask is None else scores + mask).softmax(3), dropout)
            output = weights @ v
        else:
            output = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        output = self.join(output.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return output[0], None if weights is None else weights[0]
        return output if self.batch_first else output.transpose(0, 1), weights

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values of all heads, each of shape ``(batch, tokens, heads * head_dim)``."""
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if query is key is value:
            return F.linear(query, weight, bias).chunk(PARTS, 2)
        biases = [None] * PARTS if bias is None else bias.chunk(PARTS)
        parts = zip((query, key, value), weight.chunk(PARTS), biases, strict=True)
        return tuple(F.linear(x, w, b) for x, w, b in parts)

    def join(self, heads: Tensor) -> Tensor:
        """Return the output for what all heads give."""
        return F.linear(heads, self.out_proj.weight, self.out_proj.bias)


def can_be_thin(module: nn.Module) -> bool:
    """Return whether a module is torch's attention in the form of which heads can be removed.

    Args:
        module: any.
    """
    own = own_parameters(module)
    return (
        isinstance(module, nn.MultiheadAttention)
        and (type(module).forward is nn.MultiheadAttention.forward or isinstance(module, ThinAttention))
        and own.get(WEIGHT) is not None
        and module.bias_k is None
        and not module.add_zero_attn
    )


def _additive(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Return a mask to add to scores; of a boolean one, true is what is not seen."""
    if mask is None or mask.is_floating_point():
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, float("-inf"))
