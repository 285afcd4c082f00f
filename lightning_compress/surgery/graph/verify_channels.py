"""Is removing channels the same as masking them? Asked by execution, for all groups at once, then by halves.

Each mode is asked: what is right in evaluation may break a head that runs in training only.

A tracer can be wrong about a reshape, a shuffle, or a norm over channels. A channel is masked by zeroing what produces
it (weights, biases, and the scale and shift of norms), so that it carries exact zeros; what reads it then gets nothing,
as when it is gone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lightning_compress.surgery import measure
from lightning_compress.surgery.graph.channels import (
    OUT,
    ChannelGraph,
    ChannelGroup,
    remove,
    remove_parameter,
    remove_side,
)
from lightning_compress.surgery.graph.reasons import OUTPUT, SHORTCUT, breaks_in, failing_module, pads_channels
from lightning_compress.surgery.modes import Mode, draws_numbers, evaluation, training
from lightning_compress.surgery.tensors import tensors_in

TOLERANCE = 1e-3  # of the largest output, in fp32; where removing is wrong, the difference is of order 1


def verified(
    net: nn.Module, groups: list[ChannelGroup], example: Any, modes: Sequence[Mode] = (evaluation,)
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """The groups for which removing equals masking, and the reason for the producers of each other one.

    Args:
        net: a copy, which is run.
        groups: to be tried.
        example: one input batch.
        modes: in which the network runs, in turn.
    """
    kept, wrong = groups, {}
    with torch.random.fork_rng(devices=[]):
        for mode in modes:
            torch.manual_seed(0)
            probe = _Probe(_randomized(net), tree_map(_noise, example), mode)
            tried, kept = kept, _bisect(probe, kept, wrong)
            if len(kept) < len(tried) and kept and probe.difference(kept) is not None:
                kept = _one_by_one(probe, kept, wrong)
    return kept, wrong


def _bisect(probe: _Probe, groups: list[ChannelGroup], wrong: dict[str, str]) -> list[ChannelGroup]:
    reason = probe.difference(groups) if groups else None
    if reason is None:
        return groups
    if len(groups) == 1:
        wrong.update({member.layer: reason for member in groups[0].producers})
        return []
    half = len(groups) // 2
    return _bisect(probe, groups[:half], wrong) + _bisect(probe, groups[half:], wrong)


def _one_by_one(probe: _Probe, groups: list[ChannelGroup], wrong: dict[str, str]) -> list[ChannelGroup]:
    """For groups that are right alone and wrong together: add while it stays right."""
    kept: list[ChannelGroup] = []
    for group in groups:
        reason = probe.difference([*kept, group])
        if reason is None:
            kept.append(group)
        else:
            wrong.update({member.layer: reason for member in group.producers})
    return kept


class _Probe:
    """A network with random weights, run in one mode with channels removed and with channels masked."""

    def __init__(self, net: nn.Module, example: Any, mode: Mode) -> None:
        self.net, self.example, self.mode, self.shapes_only, self.where = net, example, mode, False, ""
        if mode is training:
            self.where = " in training mode"
            self._in_double_precision()

    def _in_double_precision(self) -> None:
        """Batch statistics of few values magnify rounding errors, and random numbers may depend on the widths."""
        self.net, example = self.net.double(), tree_map(_doubled, self.example)
        try:
            self.shapes_only = draws_numbers(copy.deepcopy(self.net), example, self.mode)
            self.example = example
        except Exception:  # it has single precision in its code
            self.net, self.shapes_only = self.net.float(), True

    def difference(self, groups: list[ChannelGroup]) -> str | None:
        """Why removing a random half of each group's units differs from masking them; None when it does not."""
        keep = {g.name: torch.randperm(g.units)[: max(1, g.units // 2)].sort().values for g in groups}
        masked, thin = copy.deepcopy(self.net), copy.deepcopy(self.net)
        try:
            _mask(masked, groups, keep)
            remove(thin, ChannelGraph({g.name: g for g in groups}, {}), keep)
            with torch.no_grad():
                expected, found = (tensors_in(self.mode(net, self.example)) for net in (masked, thin))
        except Exception:  # whatever the network's own forward raises on the wrong shapes
            return self._broken(thin)
        if len(expected) == len(found) and all(self._equal(a, b) for a, b in zip(expected, found, strict=True)):
            return None
        if [t.shape for t in expected] != [t.shape for t in found]:
            return f"{OUTPUT}{self.where}"
        if self._pads():
            return SHORTCUT
        return (
            f"removing its channels is not the same as masking them{self.where} (a reshape, shuffle or output that "
            f"depends on them)"
        )

    def _broken(self, thin: nn.Module) -> str:
        if self._pads():
            return SHORTCUT
        name = failing_module(thin, self.example, self.mode)
        return breaks_in(thin.get_submodule(name), name, self.where)

    def _pads(self) -> bool:
        return pads_channels(copy.deepcopy(self.net), self.example, self.mode)

    def _equal(self, a: Tensor, b: Tensor) -> bool:
        scale = float(a.abs().max()) if a.numel() else 0.0
        return a.shape == b.shape and (self.shapes_only or bool(((a - b).abs() <= TOLERANCE * max(scale, 1e-6)).all()))


def _noise(leaf: Any) -> Any:
    """Random numbers in place of a floating-point input: an all-zero example would hide differences."""
    return torch.randn_like(leaf) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _doubled(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _mask(net: nn.Module, groups: list[ChannelGroup], keep: dict[str, Tensor]) -> None:
    modules, parameters = dict(net.named_modules()), dict(net.named_parameters())
    norms: dict[str, list[tuple[str, int, Tensor]]] = {}  # what normalizes over channels -> parameter, dim, positions
    for group in groups:
        dropped = torch.ones(group.units, dtype=torch.bool)
        dropped[keep[group.name]] = False
        for member in group.producers:
            lost = member.index[dropped].flatten()
            module = modules.get(member.layer)
            if module is None:
                parameters[member.layer].data.index_fill_(member.dim, lost, 0)
                parent, _, key = member.layer.rpartition(".")
                if not list(modules[parent].children()) and not isinstance(modules[parent], measure.CONV):
                    norms.setdefault(parent, []).append((key, member.dim, lost))
                continue
            if isinstance(module, nn.LayerNorm) or (isinstance(module, nn.GroupNorm) and module.num_groups == 1):
                norms.setdefault(member.layer, []).append(("", 0, lost))
            # The mean of a norm without shift: zeros would leave it as something else.
            for key in ("weight", "bias", "running_mean"):
                if getattr(module, key, None) is not None:
                    getattr(module, key).data[lost] = 0
    for name, parts in norms.items():
        _normalize_kept(modules[name], parts)


def _normalize_kept(norm: nn.Module, parts: list[tuple[str, int, Tensor]]) -> None:
    """Let a layer that normalizes over channels run over those that are kept, and give zeros for the others."""
    thin, lost = copy.deepcopy(norm), torch.cat([positions for _, _, positions in parts]).unique()
    for key in dict.fromkeys(key for key, _, _ in parts):
        own = [(dim, positions) for name, dim, positions in parts if name == key]
        positions = torch.cat([each for _, each in own])
        if key:
            width = norm._parameters[key].shape[own[0][0]]
            remove_parameter(thin, key, own[0][0], positions)
        else:
            width = len(norm.weight)
            remove_side(thin, OUT, positions)
    kept = torch.ones(width, dtype=torch.bool)
    kept[lost] = False
    kept = kept.nonzero().flatten()

    def over_kept(_norm: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        dim = channel_dim(norm, args[0], width)
        return torch.zeros_like(output).index_copy_(dim, kept, thin(args[0].index_select(dim, kept)))

    norm.register_forward_hook(over_kept)


def channel_dim(norm: nn.Module, x: Tensor, width: int) -> int:
    """Return the dimension of the channels in the input of a norm: the last, or the second of images.

    Args:
        norm: a layer with parameters for each channel.
        x: its input.
        width: how many channels there are.
    """
    last = type(norm).forward in (nn.LayerNorm.forward, nn.RMSNorm.forward) or x.shape[1] != width
    return x.dim() - 1 if last else 1


def _randomized(net: nn.Module) -> nn.Module:
    """A copy with random weights of sensible size and random statistics: zeros and ones would hide differences."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, measure.BATCH_NORM):
                mean, variance = module.running_mean, module.running_var
                if mean is not None and variance is not None:
                    mean.normal_(0, 0.1)
                    variance.uniform_(0.5, 1.5)
        for parameter in net.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            if parameter.dim() > 1:
                parameter.normal_(0, (2 / fan_in) ** 0.5)
            else:
                parameter.uniform_(0.5, 1.5)
    return net
