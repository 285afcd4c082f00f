"""Giving a network the shapes of other tensors: saved ones, or those that channels were cut from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.surgery._torch import ConvBase, NormBase, own_buffers, own_parameters
from lightning_compress.surgery.attention import COUNTS, attentions, refresh_heads
from lightning_compress.surgery.replacement import Replacement
from lightning_compress.surgery.thin_attention import ThinAttention


def resize(net: nn.Module, shapes: Mapping[str, torch.Size], groups: Mapping[str, int]) -> None:
    """Give the parameters and buffers the shapes of saved ones, so that a thin ``state_dict`` loads.

    Values of tensors that change shape are zeros, to be overwritten by the load. ``in_channels``, ``out_channels`` and
    the like follow from the shapes, but not how many groups a convolution has: a shape does not tell fewer groups from
    narrower ones.

    Args:
        net: the network.
        shapes: name in ``state_dict()`` -> shape; names that the network has not are ignored.
        groups: convolution -> its groups; those not named keep theirs.
    """
    heads = list(attentions(net))
    widths = [attention.width for attention in heads]
    for name, module in net.named_modules():
        prefix = f"{name}." if name else ""
        changed = name in groups and isinstance(module, ConvBase) and module.groups != groups[name]
        if changed:
            module.groups = groups[name]
        tables: tuple[dict[str, Any], ...] = (own_parameters(module), own_buffers(module))
        for store in tables:
            for key, old in store.items():
                shape = shapes.get(prefix + key)
                if old is None or shape is None or old.shape == shape:
                    continue
                new = torch.zeros(shape, dtype=old.dtype, device=old.device)
                store[key] = nn.Parameter(new, old.requires_grad) if store is own_parameters(module) else new
                refresh_numbers(module, old.shape, shape)
                changed = True
        if changed:
            refresh_widths(module)
    refresh_heads(net, heads, widths)


def refresh_numbers(module: nn.Module, before: torch.Size, after: torch.Size) -> None:
    """Set the attributes of a module that held a size which its parameter has no more: ``hidden_dim`` beside a token.

    Args:
        module: of a class that neither torch nor this package defines; those are known to :func:`refresh_widths`.
        before: shape of one of its parameters or buffers.
        after: its shape now.
    """
    if type(module).__module__.startswith("torch.nn.") or isinstance(module, Replacement):
        return
    sizes = {old: new for old, new in zip(before, after, strict=False) if old != new}
    held = [key for key, value in vars(module).items() if type(value) is int and value in sizes]
    for key in [key for key in held if key in COUNTS] or held:  # a table has a row for each head
        setattr(module, key, sizes[getattr(module, key)])
    for key, value in list(vars(module).items()):
        if type(value) is tuple and sum(type(each) is int and each in sizes for each in value) == 1:
            setattr(module, key, tuple(sizes.get(each, each) for each in value))  # shape of a table


def refresh_widths(module: nn.Module) -> None:
    """Set ``in_channels`` and its kin from the shapes of the tensors, after they changed."""
    weight = own_parameters(module).get("weight")
    if isinstance(module, ThinAttention):
        module.refresh_widths()
    elif weight is not None:
        _refresh_by_weight(module, weight)


def _refresh_by_weight(module: nn.Module, weight: Tensor) -> None:
    if isinstance(module, ConvBase):
        first, second = weight.shape[0], weight.shape[1] * module.groups
        module.in_channels, module.out_channels = (first, second) if module.transposed else (second, first)
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = weight.shape[1]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, NormBase):
        module.num_features = weight.shape[0]
    elif isinstance(module, nn.GroupNorm):
        if module.num_groups > 1:  # whole groups are removed
            module.num_groups = weight.shape[0] // (module.num_channels // module.num_groups)
        module.num_channels = weight.shape[0]
    elif isinstance(getattr(module, "normalized_shape", None), tuple | torch.Size):  # LayerNorm, RMSNorm and their kin
        setattr(module, "normalized_shape", tuple(weight.shape))  # noqa: B010  torch declares no such attribute
