"""Remove the channels of groups from a network."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError
from lightning_compress.surgery import resize
from lightning_compress.surgery._torch import ConvBase, own_buffers, own_parameters
from lightning_compress.surgery.attention import attentions, refresh_heads
from lightning_compress.surgery.graph.channels import EACH, IN, OUT, ChannelGraph
from lightning_compress.surgery.replacement import Replacement, replace_modules
from lightning_compress.surgery.split_numbers import set_numbers
from lightning_compress.surgery.thin_attention import ThinAttention, can_be_thin
from lightning_compress.surgery.thin_partition_attention import torchvision_form


@torch.no_grad()
def remove(net: nn.Module, graph: ChannelGraph, keep: Mapping[str, Tensor]) -> None:
    """Shrink a network in place to the units that are kept.

    Args:
        net: of the architecture that was traced.
        graph: its groups.
        keep: root -> indices of the kept units, at least one; groups not named stay whole.

    Raises:
        CompressError: a group would be left with nothing.
    """
    gone: dict[tuple[str, str], list[Tensor]] = {}
    dims: dict[tuple[str, str], int] = {}
    for name, kept in keep.items():
        group = graph.groups[name]
        if not len(kept):
            raise CompressError(f"pruning: no channel of {name!r} would be left; keep at least one")
        dropped = torch.ones(group.units, dtype=torch.bool)
        dropped[kept.cpu()] = False
        for member in group.members:
            if member.side == EACH:
                continue
            gone.setdefault((member.layer, member.side), []).append(member.index[dropped].flatten())
            dims[member.layer, member.side] = member.dim
    numbers = dict(_numbers(net, graph, keep))  # before heads are counted anew, which may be among them
    _make_thin(net, {layer.rpartition(".")[0] for layer, _ in gone})
    modules, heads = dict(net.named_modules()), list(attentions(net))
    widths = [attention.width for attention in heads]
    # Inputs first: their positions are counted in the conv groups of before.
    for (layer, side), positions in sorted(gone.items(), key=lambda item: item[0][1]):
        lost = positions[0] if len(positions) == 1 else torch.cat(positions)
        if len(lost):
            if layer in modules:
                remove_side(modules[layer], side, lost)
            else:
                parent, _, key = layer.rpartition(".")
                remove_parameter(modules[parent], key, dims[layer, side], lost)
    refresh_heads(net, heads, widths)
    set_numbers(net, numbers)


def _numbers(net: nn.Module, graph: ChannelGraph, keep: Mapping[str, Tensor]) -> Iterator[tuple[str, int]]:
    """Yield the values of attributes that count channels, after the removal."""
    for name, kept in keep.items():
        group = graph.groups[name]
        for number in group.numbers:
            owner, _, key = number.name.rpartition(".")
            yield number.name, getattr(net.get_submodule(owner), key) - (group.units - len(kept)) * number.each


def _make_thin(net: nn.Module, names: Collection[str]) -> None:
    """Put attention that may have fewer heads, and another width than its heads, in the place of torch's."""
    modules = {name: net.get_submodule(name) for name in sorted(names)}
    old = {name: module for name, module in modules.items() if not isinstance(module, Replacement)}
    forms = {name: thin_form(module) for name, module in old.items()}
    replace_modules(net, {name: form.like(old[name]) for name, form in forms.items() if form is not None})


def thin_form(module: nn.Module) -> type[Replacement] | None:
    """Return the class that takes the place of attention which may have fewer heads, or a narrower stream.

    Args:
        module: any; None is returned for what needs no other class.
    """
    return ThinAttention if can_be_thin(module) else torchvision_form(module)


@torch.no_grad()
def remove_parameter(module: nn.Module, key: str, dim: int, lost: Tensor) -> None:
    """Take positions off a parameter of a module that is no known layer.

    Args:
        module: is changed in place.
        key: name of the parameter.
        dim: along which.
        lost: positions.
    """
    before = getattr(module, key).shape
    _select(own_parameters(module), key, dim, _kept(before[dim], lost))
    resize.refresh_numbers(module, before, getattr(module, key).shape)
    resize.refresh_widths(module)
    for name, value in vars(module).items():
        if isinstance(value, dict) and not name.startswith("_") and all(isinstance(v, Tensor) for v in value.values()):
            value.clear()  # computed from what the parameter was, as LeViT's table of biases


@torch.no_grad()
def remove_side(module: nn.Module, side: str, lost: Tensor) -> None:
    """Take positions off one side of a layer's tensors.

    Of the groups of a grouped convolution each loses all of its positions, or as many as each other that stays.

    Args:
        module: is changed in place.
        side: ``in`` or ``out``.
        lost: positions.
    """
    parameters: dict[str, Any] = own_parameters(module)
    buffers: dict[str, Any] = own_buffers(module)
    if isinstance(module, ConvBase):
        first = IN if module.transposed else OUT  # the side of the weight's first dimension
        stays = _stays(module.out_channels if side == OUT else module.in_channels, lost)
        by_group, kept = stays.view(module.groups, -1), stays.nonzero().flatten()
        # The other side of whole conv groups goes with the first dimension of these.
        own = kept if side == first or module.groups == 1 else by_group.any(0).nonzero().flatten()
        _select(parameters, "weight", int(side != first), own)
        if side == OUT and module.groups > 1:
            module.groups = int(by_group.any(1).sum())
        if side == OUT and parameters["bias"] is not None:
            _select(parameters, "bias", 0, kept)
    elif side == OUT:
        tables = [(parameters, "weight"), (parameters, "bias"), (buffers, "running_mean"), (buffers, "running_var")]
        found = [(table, key) for table, key in tables if table.get(key) is not None]
        if found:
            kept = _kept(len(found[0][0][found[0][1]]), lost)
        for table, key in found:
            _select(table, key, 0, kept)
    else:
        _select(parameters, "weight", 1, _kept(parameters["weight"].shape[1], lost))
    resize.refresh_widths(module)


def _stays(count: int, lost: Tensor) -> Tensor:
    stays = torch.ones(count, dtype=torch.bool)
    stays[lost] = False
    return stays


def _kept(count: int, lost: Tensor) -> Tensor:
    return _stays(count, lost).nonzero().flatten()


def _select(table: dict[str, Any], key: str, dim: int, kept: Tensor) -> None:
    """Replace a parameter or buffer by the positions that are kept."""
    old = table[key]
    kept = kept.to(old.device)
    new = old.detach().index_select(dim, kept)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, old.requires_grad)
        if old.grad is not None:
            new.grad = old.grad.index_select(dim, kept)
    table[key] = new
