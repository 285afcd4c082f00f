"""Heads of attention modules: which layers they are in, and the numbers of them that a module keeps.

A module counts as attention when it has a number of heads and their size among its attributes, as those of timm and of
transformers. ``torch.nn.MultiheadAttention`` has a form of its own: thin_attention.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

COUNTS = ("num_heads", "num_attention_heads", "n_heads", "heads")
SIZES = ("head_dim", "attention_head_size", "head_size", "dim_head")
PROJECTIONS = 3  # queries, keys and values


@dataclass(frozen=True)
class Attention:
    """An attention module whose forward takes its number of heads from an attribute, or from the width.

    Attributes:
        name: of the module.
        module: which keeps the numbers.
        count: name of the attribute that holds the number of heads.
        size: features of one head.
        inputs: names of the layers that give queries, keys and values, one for all or one for each.
        output: name of the layer that reads the heads; "" where it is not a child.
    """

    name: str
    module: nn.Module
    count: str
    size: int
    inputs: tuple[str, ...]
    output: str

    @property
    def heads(self) -> int:
        """The number of heads."""
        return getattr(self.module, self.count)

    @property
    def width(self) -> int:
        """Features of all heads together."""
        return self.heads * self.size


def attentions(net: nn.Module) -> Iterator[Attention]:
    """Yield the attention modules of a network.

    Args:
        net: any.
    """
    for name, module in net.named_modules():
        own = vars(module)
        count = next((key for key in COUNTS if isinstance(own.get(key), int) and own[key] > 0), None)
        size = next((own[key] for key in SIZES if isinstance(own.get(key), int) and own[key] > 0), 0)
        if count is None or not size:
            continue
        layers = {f"{name}.{key}" if name else key: m for key, m in module.named_children() if isinstance(m, nn.Linear)}
        inputs = _inputs(list(layers.values()), own[count] * size)
        if inputs:
            names = list(layers)
            output = names[inputs] if inputs < len(names) else ""
            yield Attention(name, module, count, size, tuple(names[:inputs]), output)


def _inputs(layers: Sequence[nn.Linear], width: int) -> int:
    """Return how many of the layers, in the order in which they are defined, give queries, keys and values."""
    total = 0
    for number, layer in enumerate(layers):
        total += layer.out_features
        if total == PROJECTIONS * width:
            return number + 1
    return 0


def refresh_heads(net: nn.Module, before: Sequence[Attention], widths: Sequence[int]) -> None:
    """Set the numbers that attention modules keep, after whole heads were removed.

    Args:
        net: whose layers have changed.
        before: its attention modules.
        widths: of each, the features of all heads before the change.
    """
    for attention, width in zip(before, widths, strict=True):
        found = sum(net.get_submodule(name).out_features for name in attention.inputs) // PROJECTIONS
        if found == width:
            continue
        for key, value in list(vars(attention.module).items()):
            if key == attention.count:
                setattr(attention.module, key, found // attention.size)
            elif isinstance(value, int) and not isinstance(value, bool) and value == width:
                setattr(attention.module, key, found)
