"""torchvision's attention over shifted windows, with fewer heads than the width of its stream holds.

torchvision takes the size of a head for the width of the stream by the number of heads, so neither heads nor channels
of the stream can go. Here the size of a head stays, and the number of heads is what the layers hold. Names and order of
the weights are torchvision's. As there, weights of ``qkv`` and ``proj`` are read, and the layers are not called.

Sources: Liu et al. 2021 (Swin, arXiv 2103.14030, section 3.2) and 2022 (Swin V2, arXiv 2111.09883, section 3.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.surgery._torch import take_over
from lightning_compress.surgery._torchvision import window_attentions
from lightning_compress.surgery.replacement import Replacement

QKV, PROJ = "qkv", "proj"
PARTS = 3  # queries, keys and values, in one matrix
TABLE = "relative_position_bias_table"
OF_DISTANCE = ("cpb_mlp.0", "cpb_mlp.2")  # layers of V2 that make such a table of distances
UNSEEN = -100.0  # added to the scores of pairs that are in one window by the shift alone
LARGEST_SCALE = log(100.0)  # of cosines, in V2


class ThinWindowAttention(Replacement):
    """Takes the place of torchvision's ``ShiftedWindowAttention``.

    Attributes:
        by_head: parameter, or layer, with a place for each head -> the dimension of these places.
        given, output: names of the layers that give queries, keys and values, and that read the heads.
        head_dim: features of one head.
        window_size: height and width of a window.
        shift_size: how far windows are moved, down and to the right.
        attention_dropout, dropout: shares of weights and of outputs that are dropped in training.
    """

    kind: ClassVar[str] = "thin_window_attention"
    by_head: ClassVar[Mapping[str, int]] = {TABLE: 1}
    given: ClassVar[str] = QKV
    output: ClassVar[str] = PROJ
    head_dim: int
    window_size: list[int]
    shift_size: list[int]
    attention_dropout: float
    dropout: float
    qkv: nn.Linear
    proj: nn.Linear
    relative_position_index: Tensor

    @classmethod
    @override
    def like(cls, old: nn.Module, **arguments: Any) -> Self:
        if thin_window_form(old) is not cls:
            raise CompressError(f"{cls.__name__}: expected torchvision's attention over shifted windows, got {old}")
        new = cls()
        take_over(new, old)
        new.head_dim = new.qkv.out_features // (PARTS * int(old.num_heads))
        new.window_size, new.shift_size = [*old.window_size], [*old.shift_size]
        new.attention_dropout, new.dropout = old.attention_dropout, old.dropout
        return new.train(old.training)

    @override
    def config(self) -> dict[str, Any]:
        return {}

    @property
    def num_heads(self) -> int:
        """The number of heads that are left."""
        return len(self.qkv.weight) // (PARTS * self.head_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for images of tokens, both of shape ``(batch, height, width, channels)``."""
        height, width = x.shape[1:3]
        rows, columns = self.window_size
        x = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        down, right = shift = self.shift(x)
        if any(shift):
            x = x.roll((-down, -right), (1, 2))
        across = x.shape[2] // columns
        windows = x.unflatten(2, (across, columns)).unflatten(1, (-1, rows)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        parts = F.linear(windows, self.qkv.weight, self.qkv_bias())
        queries, keys, values = parts.unflatten(3, (PARTS, -1, self.head_dim)).permute(3, 0, 1, 4, 2, 5)
        scores = self.scores(queries, keys) + self.position_bias()
        if any(shift):
            scores = scores + _crossing(x, self.window_size, shift)
        weights = F.dropout(scores.softmax(-1), self.attention_dropout, self.training)
        heads = (weights @ values).transpose(2, 3).flatten(3)
        y = F.dropout(F.linear(heads, self.proj.weight, self.proj.bias), self.dropout, self.training)
        y = y.unflatten(2, (rows, columns)).unflatten(1, (-1, across)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if any(shift):
            y = y.roll((down, right), (1, 2))
        return y[:, :height, :width].contiguous()

    def shift(self, x: Tensor) -> list[int]:
        """Return how far windows are moved in padded images; not where one window is as large."""
        sides = zip(self.shift_size, self.window_size, x.shape[1:3], strict=True)
        return [0 if size >= whole else shift for shift, size, whole in sides]

    def qkv_bias(self) -> Tensor | None:
        """Return the bias of queries, keys and values."""
        return self.qkv.bias

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the products of queries and keys of shape ``(batch, windows, heads, tokens, features)``."""
        return (queries * self.head_dim**-0.5) @ keys.transpose(-2, -1)

    def position_bias(self) -> Tensor:
        """Return what is added to the scores of two places of a window: shape ``(heads, tokens, tokens)``."""
        return self.by_places(getattr(self, TABLE))

    def by_places(self, table: Tensor) -> Tensor:
        """Return the rows of a table, one for each distance, at all pairs of places: ``(heads, tokens, tokens)``."""
        tokens = self.window_size[0] * self.window_size[1]
        return table[self.relative_position_index].unflatten(0, (tokens, tokens)).permute(2, 0, 1)


class ThinCosineAttention(ThinWindowAttention):
    """Takes the place of torchvision's ``ShiftedWindowAttentionV2``: scaled cosines, and a network for positions."""

    kind: ClassVar[str] = "thin_cosine_attention"
    by_head: ClassVar[Mapping[str, int]] = {"logit_scale": 0, OF_DISTANCE[1]: 0}
    logit_scale: nn.Parameter
    cpb_mlp: nn.Module
    relative_coords_table: Tensor

    @override
    def qkv_bias(self) -> Tensor | None:
        bias = self.qkv.bias
        if bias is None:
            return None
        queries, keys, values = bias.chunk(PARTS)
        return torch.cat([queries, torch.zeros_like(keys), values])  # keys have none, whatever is stored

    @override
    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        cosines = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).transpose(-2, -1)
        return cosines * self.logit_scale.clamp(max=LARGEST_SCALE).exp()

    @override
    def position_bias(self) -> Tensor:
        table = self.cpb_mlp(self.relative_coords_table).flatten(0, -2)
        return 16 * self.by_places(table).sigmoid()


def thin_window_form(module: nn.Module) -> type[ThinWindowAttention] | None:
    """Return the class that may take the place of a module; None for what is not torchvision's attention over windows.

    Args:
        module: any.
    """
    if isinstance(module, ThinWindowAttention):
        return type(module)
    pairs = zip(window_attentions(), (ThinWindowAttention, ThinCosineAttention), strict=False)
    return next((form for kind, form in pairs if type(module).forward is kind.forward), None)


def padded_tokens(module: Any, x: Tensor) -> int:
    """Return at how many places of one image attention over windows computes: those of whole windows.

    Args:
        module: the attention.
        x: its input, of shape ``(batch, height, width, channels)``.
    """
    height, width = (-(-side // size) * size for side, size in zip(x.shape[1:3], module.window_size, strict=True))
    return height * width


def _crossing(x: Tensor, window: list[int], shift: list[int]) -> Tensor:
    """Return what is added to the scores of each window after a shift: shape ``(windows, 1, tokens, tokens)``.

    A shifted image wraps around: windows at its end hold places from both of its ends, which do not see each other.
    """
    ends = []
    for side, size, moved in zip(x.shape[1:3], window, shift, strict=True):
        end = x.new_zeros(side)
        if moved:
            end[-moved:] = 1
        ends.append(end.view(-1, size))
    rows, columns = ends
    region = 2 * rows[:, None, :, None] + columns[None, :, None, :]
    region = region.flatten(2).flatten(0, 1)
    return UNSEEN * (region[:, None, :] != region[:, :, None]).to(x.dtype)[:, None]
