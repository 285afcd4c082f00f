"""Is removing channels the same as masking them? Asked by execution, for all groups at once, then by halves.

A tracer can be wrong about a reshape, a shuffle, or a norm over channels. A channel is masked by zeroing what produces
it (weights, biases, and the scale and shift of norms), so that it carries exact zeros; what reads it then gets nothing,
as when it is gone.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lightning_compress.surgery import measure
from lightning_compress.surgery.graph.channels import ChannelGraph, ChannelGroup, remove

TOLERANCE = 1e-3  # of the largest output, in fp32; where removing is wrong, the difference is of order 1


def verified(net: nn.Module, groups: list[ChannelGroup], example: Any) -> tuple[list[ChannelGroup], dict[str, str]]:
    """The groups for which removing equals masking, and the reason for the producers of each other one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        probe = _randomized(net)
        wrong: dict[str, str] = {}
        example = tree_map(_noise, example)
        kept = _bisect(probe, groups, example, wrong)
        if len(kept) < len(groups) and kept and _difference(probe, kept, example) is not None:
            kept = _one_by_one(probe, kept, example, wrong)
    return kept, wrong


def _bisect(net: nn.Module, groups: list[ChannelGroup], example: Any, wrong: dict[str, str]) -> list[ChannelGroup]:
    reason = _difference(net, groups, example) if groups else None
    if reason is None:
        return groups
    if len(groups) == 1:
        wrong.update({member.layer: reason for member in groups[0].producers})
        return []
    half = len(groups) // 2
    return _bisect(net, groups[:half], example, wrong) + _bisect(net, groups[half:], example, wrong)


def _one_by_one(net: nn.Module, groups: list[ChannelGroup], example: Any, wrong: dict[str, str]) -> list[ChannelGroup]:
    """For groups that are right alone and wrong together: add while it stays right."""
    kept: list[ChannelGroup] = []
    for group in groups:
        reason = _difference(net, [*kept, group], example)
        if reason is None:
            kept.append(group)
        else:
            wrong.update({member.layer: reason for member in group.producers})
    return kept


def _difference(net: nn.Module, groups: list[ChannelGroup], example: Any) -> str | None:
    """Why removing a random half of each group's units differs from masking them; None when it does not."""
    keep = {g.name: torch.randperm(g.units)[: max(1, g.units // 2)].sort().values for g in groups}
    masked, thin = copy.deepcopy(net), copy.deepcopy(net)
    try:
        _mask(masked, groups, keep)
        remove(thin, ChannelGraph({g.name: g for g in groups}, {}), keep)
        with torch.no_grad():
            expected, found = _tensors(masked, example), _tensors(thin, example)
    except Exception as error:  # whatever the network's own forward raises on the wrong shapes
        return f"removing its channels breaks the forward pass ({str(error).splitlines()[0][:120]})"
    if len(expected) == len(found) and all(_equal(a, b) for a, b in zip(expected, found, strict=True)):
        return None
    return "removing its channels is not the same as masking them (a reshape, shuffle or output that depends on them)"


def _noise(leaf: Any) -> Any:
    """Random numbers in place of a floating-point input: an all-zero example would hide differences."""
    return torch.randn_like(leaf) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _equal(a: Tensor, b: Tensor) -> bool:
    scale = float(a.abs().max()) if a.numel() else 0.0
    return a.shape == b.shape and bool(((a - b).abs() <= TOLERANCE * max(scale, 1e-6)).all())


def _tensors(net: nn.Module, example: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(measure.forward(net, example)) if isinstance(leaf, Tensor)]


def _mask(net: nn.Module, groups: list[ChannelGroup], keep: dict[str, Tensor]) -> None:
    modules, parameters = dict(net.named_modules()), dict(net.named_parameters())
    for group in groups:
        dropped = torch.ones(group.units, dtype=torch.bool)
        dropped[keep[group.name]] = False
        for member in group.producers:
            lost = member.index[dropped].flatten()
            module = modules.get(member.layer)
            # The mean of a norm without shift: zeros would leave it as something else.
            keys = ("weight", "bias", "running_mean")
            tensors = [parameters[member.layer]] if module is None else [getattr(module, key, None) for key in keys]
            for tensor in tensors:
                if tensor is not None:
                    tensor.data[lost] = 0


def _randomized(net: nn.Module) -> nn.Module:
    """A copy with random weights of sensible size and random statistics: zeros and ones would hide differences."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, measure.BATCH_NORM) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        for parameter in net.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            if parameter.dim() > 1:
                parameter.normal_(0, (2 / fan_in) ** 0.5)
            else:
                parameter.uniform_(0.5, 1.5)
    return net
