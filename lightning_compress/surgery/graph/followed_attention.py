"""Attention that reads the weights of its layers, in a form through which channels can be followed.

``torch.nn.MultiheadAttention`` and torchvision's attention over shifted windows compute all in one function. That of
MaxViT takes the width of the stream for that of heads. Here each projection is a layer of its own. Heads are not
followed: their groups are known (heads.py).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_compress.surgery.replacement import replace_modules
from lightning_compress.surgery.thin_attention import PARTS, WEIGHT, can_be_thin
from lightning_compress.surgery.thin_partition_attention import ThinPartitionAttention, torchvision_form
from lightning_compress.surgery.thin_window_attention import ThinWindowAttention


class Projection(nn.Linear):
    """Stands for the matrix of queries, keys and values, or for one third of it, as far as its columns go.

    Args:
        old: the matrix.
        of: name of the layer or parameter that it is in, beside this one.
        parameter: whether it is a parameter.
    """

    def __init__(self, old: Tensor, of: str, parameter: bool) -> None:
        super().__init__(old.shape[1], len(old) // PARTS, device=old.device, dtype=old.dtype)
        self.of, self.parameter = of, parameter

    @property
    def place(self) -> tuple[int, int]:
        """Dimension and extent of the columns, as a :class:`Side` tells them: of a parameter, else zeros."""
        return (1, self.in_features) if self.parameter else (0, 0)


class FollowedAttention(nn.Module):
    """Takes and gives tensors of the same shapes, for which one head is enough.

    Args:
        old: the attention that it stands for.
    """

    def __init__(self, old: Any) -> None:
        super().__init__()
        self.query, self.key, self.value = (Projection(old.in_proj_weight, WEIGHT, True) for _ in range(PARTS))
        self.out_proj = old.out_proj
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


class FollowedWindows(nn.Module):
    """Takes and gives tensors of the same shapes as attention over windows, for which each place may be alone.

    Args:
        old: the attention that it stands for.
        form: what may take its place.
    """

    def __init__(self, old: nn.Module, form: type[ThinWindowAttention | ThinPartitionAttention]) -> None:
        super().__init__()
        self.values = Projection(old.get_parameter(f"{form.given}.weight"), form.given, False)
        self.output = form.output
        self.add_module(form.output, old.get_submodule(form.output))

    def forward(self, x: Tensor) -> Tensor:
        """Return what has the shape of the outputs."""
        return self.get_submodule(self.output)(self.values(x))


def make_followable(net: nn.Module) -> None:
    """Put such attention in the place of what reads weights, in place.

    Args:
        net: a copy, which is thrown away.
    """
    modules = {name: module for name, module in net.named_modules() if name}
    replace_modules(net, {name: FollowedAttention(module) for name, module in modules.items() if can_be_thin(module)})
    forms = {name: torchvision_form(module) for name, module in modules.items()}
    replace_modules(net, {n: FollowedWindows(modules[n], form) for n, form in forms.items() if form is not None})
