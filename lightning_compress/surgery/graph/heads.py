"""Groups of channels whose units are the heads of attention.

One unit is a head: its rows in the layers that give queries, keys and values, and its columns in the layer that reads
it. Removing a head equals masking it, for zero values add nothing to the output. Heads were pruned so by Michel et al.
(Are Sixteen Heads Really Better than One?, arXiv 1905.10650).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.core.profile import Profile
from lightning_compress.surgery._torch import own_parameters
from lightning_compress.surgery.attention import Attention, attentions
from lightning_compress.surgery.graph.channels import HEADS, IN, OUT, ChannelGroup, Member
from lightning_compress.surgery.thin_attention import BIAS, PARTS, WEIGHT, can_be_thin
from lightning_compress.surgery.thin_partition_attention import ThinPartitionAttention, torchvision_form
from lightning_compress.surgery.thin_window_attention import OF_DISTANCE, ThinWindowAttention


def head_groups(net: nn.Module, profile: Profile) -> list[ChannelGroup]:
    """Return a group for each attention module whose layers are found; it is to be verified.

    Args:
        net: dense.
        profile: of it, in the order in which layers run.
    """
    forms = {name: torchvision_form(module) for name, module in net.named_modules()}
    windows = {name: form for name, form in forms.items() if form is not None}
    several = (each for each in attentions(net) if each.heads > 1 and each.name not in windows)
    own = (name for name, module in net.named_modules() if can_be_thin(module) and module.num_heads > 1)
    given = {name: profile[f"{name}.{form.given}".lstrip(".")] for name, form in windows.items()}
    runs = [name for name, layer in given.items() if layer.positions or layer.read_positions]
    return [
        *(group for attention in several for group in _group(attention, profile)),
        *(_thin_group(net, name) for name in own if profile.inside(name)[0].positions),
        *(group for name in runs for group in _of_windows(net, name, windows[name])),
    ]


def _thin_group(net: nn.Module, name: str) -> ChannelGroup:
    """Return the group of ``torch.nn.MultiheadAttention``, whose matrix holds queries, keys and values of all heads."""
    attention: Any = net.get_submodule(name)
    prefix, heads = f"{name}." if name else "", attention.num_heads
    rows = torch.arange(PARTS * heads * attention.head_dim).view(PARTS, heads, attention.head_dim)
    rows = rows.transpose(0, 1).reshape(heads, -1)
    members = [Member(prefix + key, OUT, rows) for key in (WEIGHT, BIAS) if own_parameters(attention)[key] is not None]
    columns = torch.arange(heads * attention.head_dim).view(heads, -1)
    return ChannelGroup(members[0].layer, heads, (*members, Member(f"{prefix}out_proj", IN, columns)), HEADS)


def _of_windows(
    net: nn.Module, name: str, form: type[ThinWindowAttention | ThinPartitionAttention]
) -> Iterator[ChannelGroup]:
    """Yield the heads of torchvision's attention over windows, and what is hidden in its network for distances."""
    prefix = f"{name}." if name else ""
    given, heads = prefix + form.given, form.like(net.get_submodule(name)).num_heads
    if heads > 1:
        count = net.get_submodule(given).out_features
        rows = torch.arange(count).view(PARTS, heads, -1).transpose(0, 1).reshape(heads, -1)
        columns = torch.arange(count // PARTS).view(heads, -1)
        each = torch.arange(heads)[:, None]
        tables = (Member(prefix + key, OUT, each, dim, heads) for key, dim in form.by_head.items())
        members = (Member(given, OUT, rows), *tables, Member(prefix + form.output, IN, columns))
        yield ChannelGroup(given, heads, members, HEADS)
    if OF_DISTANCE[1] in form.by_head:
        first, last = (prefix + key for key in OF_DISTANCE)
        each = torch.arange(net.get_submodule(first).out_features)[:, None]
        yield ChannelGroup(first, len(each), (Member(first, OUT, each), Member(last, IN, each)))


def _group(attention: Attention, profile: Profile) -> Iterator[ChannelGroup]:
    order = {layer.name: i for i, layer in enumerate(profile.weighted) if layer.positions}
    if not order.keys() >= set(attention.inputs):
        return
    last = max(order[name] for name in attention.inputs)
    behind = next((name for name, i in order.items() if i == last + 1), "")  # of a sibling, as in BERT
    output = attention.output or behind
    if output not in order or profile[output].in_channels != attention.width or profile[output].kind != "linear":
        return
    members = [Member(name, OUT, _rows(attention, profile[name].out_channels)) for name in attention.inputs]
    members.append(Member(output, IN, _rows(attention, attention.width)))
    yield ChannelGroup(min(attention.inputs, key=order.__getitem__), attention.heads, tuple(members), HEADS)


def _rows(attention: Attention, width: int) -> Tensor:
    """Return the positions of each head in a layer of that width, which holds each head once, or thrice."""
    by_head = torch.arange(width).view(width // attention.width, attention.heads, attention.size)
    return by_head.transpose(0, 1).reshape(attention.heads, -1)
