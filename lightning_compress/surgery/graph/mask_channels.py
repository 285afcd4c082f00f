"""Mask channels: what produces them gives zeros, and what takes statistics over them takes them over the kept ones.

A layer norm over some zeros is not the layer norm of the thin network, nor is a weight standardized over inputs that
are gone. So such a layer of the masked network runs over what is kept, and gives zeros for the rest; and so does a
convolution that slides over channels (ECA-Net, arXiv 1910.03151). Between the two a function may make something else of
zeros (a sigmoid makes 0.5), so what reads the channels gets zero weights for them too.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.surgery import measure
from lightning_compress.surgery._torch import ConvBase, own_parameters
from lightning_compress.surgery.graph.channels import EACH, IN, OUT, ChannelGroup
from lightning_compress.surgery.graph.remove_channels import remove_parameter, remove_side
from lightning_compress.surgery.matrices import argument
from lightning_compress.surgery.transforms import WEIGHT


def mask(net: nn.Module, groups: Sequence[ChannelGroup], keep: Mapping[str, Tensor]) -> None:
    """Mask channels of a network in place.

    Args:
        net: of the architecture that was traced.
        groups: of channels.
        keep: root -> indices of the units that stay.
    """
    modules, parameters = dict(net.named_modules()), dict(net.named_parameters())
    norms: dict[str, list[tuple[str, int, Tensor]]] = {}  # what normalizes over channels -> parameter, dim, positions
    for group in groups:
        dropped = _dropped(group, keep)
        for member in group.producers:
            lost, module = member.index[dropped].flatten(), modules.get(member.layer)
            if module is not None:
                _zero(module, lost)
                if _normalizes(module):
                    norms.setdefault(member.layer, []).append(("", 0, lost))
                continue
            parameters[member.layer].data.index_fill_(member.dim, lost, 0)
            parent, _, key = member.layer.rpartition(".")
            if not list(modules[parent].children()) and not isinstance(modules[parent], (ConvBase, nn.Embedding)):
                norms.setdefault(parent, []).append((key, member.dim, lost))
    for name, parts in norms.items():
        _normalize_kept(modules[name], parts)
    _mask_readers(modules, groups, keep)
    for group in groups:
        for member in group.members:
            if member.side == IN and member.layer not in modules:
                lost = member.index[_dropped(group, keep)].flatten()
                parameters[member.layer].data.index_fill_(member.dim, lost, 0)


def _mask_readers(modules: Mapping[str, nn.Module], groups: Sequence[ChannelGroup], keep: Mapping[str, Tensor]) -> None:
    for name, lost in _lost(groups, keep, EACH).items():
        if isinstance(modules[name], measure.CONV):
            _slide_over_kept(modules[name], lost)
    for name, lost in _lost(groups, keep, IN).items():
        if name in modules and standardizes(modules[name]):
            _convolve_kept(modules[name], lost)
        elif name in modules:
            _read_nothing(modules[name], lost)


def _read_nothing(layer: Any, lost: Tensor) -> None:
    """Zero the weights of a layer for inputs that are lost; another layer that shares its weight keeps them."""
    weight = layer.weight.detach().clone()
    own_parameters(layer)[WEIGHT] = nn.Parameter(weight)
    if isinstance(layer, measure.TRANSPOSED):
        weight[lost] = 0
    elif isinstance(layer, measure.CONV):
        outputs, inputs = len(weight) // layer.groups, weight.shape[1]
        weight.view(layer.groups, outputs, *weight.shape[1:])[lost // inputs, :, lost % inputs] = 0
    else:
        weight[:, lost] = 0


def _dropped(group: ChannelGroup, keep: Mapping[str, Tensor]) -> Tensor:
    dropped = torch.ones(group.units, dtype=torch.bool)
    dropped[keep[group.name]] = False
    return dropped


def _normalizes(module: nn.Module) -> bool:
    """Return whether a known norm computes its statistics over all channels."""
    return isinstance(module, nn.LayerNorm) or (isinstance(module, nn.GroupNorm) and module.num_groups == 1)


def _zero(module: nn.Module, lost: Tensor) -> None:
    # The mean of a norm without shift: zeros would leave it as something else.
    for key in ("weight", "bias", "running_mean"):
        if getattr(module, key, None) is not None:
            values = getattr(module, key).data
            if key == "weight" and isinstance(module, measure.TRANSPOSED):
                first, width = len(values) // module.groups, values.shape[1]
                values.view(module.groups, first, *values.shape[1:])[lost // width, :, lost % width] = 0
            else:
                values[lost] = 0


def _lost(groups: Sequence[ChannelGroup], keep: Mapping[str, Tensor], side: str) -> dict[str, Tensor]:
    """Return layer -> positions of one of its sides that are dropped."""
    found: dict[str, list[Tensor]] = {}
    for group in groups:
        dropped = _dropped(group, keep)
        for member in group.members:
            if member.side == side:
                found.setdefault(member.layer, []).append(member.index[dropped].flatten())
    return {name: torch.cat(parts) for name, parts in found.items()}


def standardizes(module: nn.Module) -> bool:
    """Return whether a convolution computes its weight by a forward of its own, as weight-standardized ones do."""
    plain = any(type(module).forward is kind.forward for kind in measure.CONV)
    return isinstance(module, measure.CONV) and not plain


def _convolve_kept(conv: nn.Module, lost: Tensor) -> None:
    """Let a weight-standardized convolution take its statistics over the inputs that are kept."""
    thin = copy.deepcopy(conv)
    remove_side(thin, IN, lost)
    if thin.in_channels == conv.in_channels:
        return  # whole conv groups are lost, and a filter has its own statistics
    kept = torch.ones(conv.in_channels, dtype=torch.bool)
    kept[lost] = False
    kept = kept.nonzero().flatten()
    conv.register_forward_hook(
        lambda _conv, args, kwargs, _output: thin(argument(args, kwargs, 0, "input").index_select(1, kept)),
        with_kwargs=True,
    )


def _slide_over_kept(conv: nn.Module, lost: Tensor) -> None:
    """Let a convolution that slides over channels run over those that are kept, and give zeros for the others."""
    plain = copy.deepcopy(conv)

    def over_kept(_conv: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        x = argument(args, kwargs, 0, "input")
        kept = torch.ones(output.shape[-1], dtype=torch.bool)
        kept[lost] = False
        places = kept.nonzero().flatten()
        return torch.zeros_like(output).index_copy_(-1, places, plain(x.index_select(-1, places)))

    conv.register_forward_hook(over_kept, with_kwargs=True)


def _normalize_kept(norm: nn.Module, parts: list[tuple[str, int, Tensor]]) -> None:
    """Let a layer that normalizes over channels run over those that are kept, and give zeros for the others."""
    thin, lost = copy.deepcopy(norm), torch.cat([positions for _, _, positions in parts]).unique()
    for key in dict.fromkeys(key for key, _, _ in parts):
        own = [(dim, positions) for name, dim, positions in parts if name == key]
        positions = torch.cat([each for _, each in own])
        if key:
            width = getattr(norm, key).shape[own[0][0]]
            remove_parameter(thin, key, own[0][0], positions)
        else:
            width = len(norm.weight)
            remove_side(thin, OUT, positions)
    kept = torch.ones(width, dtype=torch.bool)
    kept[lost] = False
    kept = kept.nonzero().flatten()

    def over_kept(_norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        x = argument(args, kwargs, 0, "input")
        dim = channel_dim(norm, x, width)
        return torch.zeros_like(output).index_copy_(dim, kept, thin(x.index_select(dim, kept)))

    norm.register_forward_hook(over_kept, with_kwargs=True)


def channel_dim(norm: nn.Module, x: Tensor, width: int) -> int:
    """Return the dimension of the channels in the input of a norm: the last, or the second of images.

    Args:
        norm: a layer with parameters for each channel.
        x: its input.
        width: how many channels there are.
    """
    last = type(norm).forward in (nn.LayerNorm.forward, nn.RMSNorm.forward) or x.shape[1] != width
    return x.dim() - 1 if last else 1
