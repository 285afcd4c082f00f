"""Is removing channels the same as masking them? Asked by execution, for all groups at once, then by halves.

Each mode is asked: what is right in evaluation may break a head that runs in training only.

A tracer can be wrong about a reshape or a shuffle. A channel is masked by zeroing what produces it (weights, biases,
and the scale and shift of norms) and the weights of what reads it. Norms over channels: mask_channels.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.surgery import measure
from lightning_compress.surgery.copies import sharing
from lightning_compress.surgery.graph.channels import ChannelGraph, ChannelGroup
from lightning_compress.surgery.graph.mask_channels import mask
from lightning_compress.surgery.graph.random_weights import randomized
from lightning_compress.surgery.graph.reasons import OUTPUT, SHORTCUT, breaks_in, innermost, pads_channels
from lightning_compress.surgery.graph.remove_channels import remove
from lightning_compress.surgery.modes import Mode, training
from lightning_compress.surgery.tensors import map_tensors, tensors_in

TOLERANCE = 1e-3  # of the largest output, in fp32; where removing is wrong, the difference is of order 1


@dataclass(frozen=True)
class Check:
    """A mode that groups are verified in.

    Attributes:
        mode: the mode.
        shapes_only: whether shapes alone can be compared, as random numbers are drawn.
        other_layers: whether other layers run than in evaluation, or as often; also of evaluation.
        outputs: shapes of the tensors that the network returns.
    """

    mode: Mode
    shapes_only: bool
    other_layers: bool
    outputs: Sequence[torch.Size]


def verified(
    net: nn.Module, shapes: nn.Module, groups: list[ChannelGroup], example: Any, checks: Sequence[Check]
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """Return the groups for which removing equals masking, and the reason for the producers of each other one.

    Args:
        net: with plain weights; is not changed.
        shapes: a copy of it, without values where it runs so.
        groups: to be tried.
        example: one input batch.
        checks: in which modes, in turn.
    """
    kept, wrong = groups, dict[str, str]()
    with torch.random.fork_rng(devices=[]):
        for check in checks:
            torch.manual_seed(0)
            probe = _Probe(shapes if check.shapes_only else net, example, check)
            tried, kept = kept, _bisect(probe, kept, wrong)
            if len(kept) < len(tried) and kept and probe.difference(kept) is not None:
                kept = _one_by_one(probe, kept, wrong)
    return kept, wrong


def all_right(
    net: nn.Module, shapes: nn.Module, groups: list[ChannelGroup], example: Any, checks: Sequence[Check]
) -> bool:
    """Return whether removing equals masking for all groups at once. Arguments as for :func:`verified`."""
    return all(_probed(net, shapes, groups, example, check) is None for check in checks)


def _probed(net: nn.Module, shapes: nn.Module, groups: list[ChannelGroup], example: Any, check: Check) -> str | None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _Probe(shapes if check.shapes_only else net, example, check).difference(groups) if groups else None


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
    """Add groups that are right alone while they stay right together."""
    kept: list[ChannelGroup] = []
    for group in groups:
        reason = probe.difference([*kept, group])
        if reason is None:
            kept.append(group)
        else:
            wrong.update({member.layer: reason for member in group.producers})
    return kept


class _ShapesOnlyError(Exception):
    """Values of a network cannot be compared, shapes can."""


class _Probe:
    """A network with random weights, run in one mode with channels removed and with channels masked.

    Where random numbers are drawn, only the shapes of the network's outputs and of those without channels are compared.
    """

    def __init__(self, net: nn.Module, example: Any, check: Check) -> None:
        self.net, self.check, self.shapes_only = net, check, check.shapes_only
        self.example = map_tensors(_noise, measure.beside(net, example))
        self.where = " in training mode" if check.mode is training else ""
        self.double = False

    def difference(self, groups: list[ChannelGroup]) -> str | None:
        """Return why removing about half of each group's units differs from masking; None if it does not."""
        keep = _about_half(groups)
        try:
            reason = self._difference(groups, keep)
            if reason is None or self.shapes_only or self.check.mode is not training:
                return reason
            self.double = True  # batch statistics magnify the differences of single precision
            reason, self.double = self._difference(groups, keep), False
            return reason
        except _ShapesOnlyError:
            self.double, self.shapes_only = False, True
            return self._difference(groups, keep)

    def _difference(self, groups: list[ChannelGroup], keep: Mapping[str, Tensor]) -> str | None:
        masked = self._copy()
        thin = masked if self.shapes_only else sharing(masked)
        try:
            remove(thin, ChannelGraph({g.name: g for g in groups}, {}), keep)
        except Exception:  # a member is not what the tracer took it for
            return breaks_in(thin, "", self.where)
        found = self._run(thin)
        if isinstance(found, str):
            return SHORTCUT if self.pads else breaks_in(thin.get_submodule(found), found, self.where)
        if self.shapes_only:
            same = [t.shape for t in found] == list(self.check.outputs)
            return None if same else f"{OUTPUT}{self.where}"
        del thin  # which has half of the network's memory
        try:
            mask(masked, groups, keep)
        except Exception:  # as above
            return breaks_in(masked, "", self.where)
        expected = self._run(masked)
        if isinstance(expected, str):
            return breaks_in(masked.get_submodule(expected), expected, self.where)
        if [t.shape for t in expected] != [t.shape for t in found]:
            return f"{OUTPUT}{self.where}"
        if all(_equal(a, b) for a, b in zip(expected, found, strict=True)):
            return None
        if self.pads:
            return SHORTCUT
        return (
            f"removing its channels is not the same as masking them{self.where} (a reshape, shuffle or output that "
            f"depends on them)"
        )

    def _copy(self) -> nn.Module:
        """Return a copy that never ran, for a network may keep what it computes."""
        if self.check.shapes_only:
            return sharing(self.net)
        return randomized(self.net).double() if self.double else randomized(self.net)

    def _run(self, net: nn.Module) -> list[Tensor] | str:
        """Return the outputs of a network; where its forward pass raises, the name of the innermost module that did.

        Raises:
            _ShapesOnlyError: values are asked for in training mode, and the network draws random numbers, or does not
                run in double precision.
        """
        before = torch.get_rng_state()
        try:
            with torch.no_grad():
                found = tensors_in(self.check.mode(net, self._given))
        except Exception as error:  # whatever the network's own forward raises on the wrong shapes
            if self.double and not self._runs_dense:
                raise _ShapesOnlyError from error
            return innermost(error, {id(module): name for name, module in net.named_modules()})
        if self.where and not self.shapes_only and not torch.equal(before, torch.get_rng_state()):
            raise _ShapesOnlyError
        return found

    @property
    def _given(self) -> Any:
        return map_tensors(_doubled, self.example) if self.double else self.example

    @cached_property
    def _runs_dense(self) -> bool:
        """Whether the network runs while it is whole: its code may ask for single precision."""
        with torch.random.fork_rng(devices=[]), suppress(Exception), torch.no_grad():
            self.check.mode(self._copy(), self._given)
            return True
        return False

    @cached_property
    def pads(self) -> bool:
        """Whether the network adds channels of zeros to a tensor."""
        return pads_channels(self._copy(), self._given, self.check.mode)


def _equal(a: Tensor, b: Tensor) -> bool:
    scale = float(a.abs().max()) if a.numel() else 0.0
    return bool(((a - b).abs() <= TOLERANCE * max(scale, 1e-6)).all())


def _about_half(groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
    """Return root -> indices of random units that stay.

    Their number is odd: code that cuts the channels into an even number of parts, as the grouped attention of SA-Net
    does, would run while they were halved, and not at other ratios. Groups that are as wide as each other keep other
    numbers, and all groups other shares, as far as there are so many: code that computes the width of one from that of
    another would run while both were halved.
    """
    widths, shares, keep = set[tuple[int, int]](), set[Fraction](), dict[str, Tensor]()
    for group in groups:
        half, least, width = max(1, group.units // 2), max(1, group.units // 4), group.units * group.width
        found = {count: (width, count * group.width) for count in range(least, max(least, group.units - least) + 1)}
        count = min(
            found, key=lambda n: (n % 2 == 0, found[n] in widths, Fraction(n, group.units) in shares, abs(n - half))
        )
        widths.add(found[count])
        shares.add(Fraction(count, group.units))
        keep[group.name] = _random_units(group.units, count)
    return keep


def _random_units(units: int, count: int) -> Tensor:
    """Return the indices of random units; no range, which would fit padding and slices by chance."""
    while True:
        found = torch.randperm(units)[:count].sort().values
        if units < 4 or count == 1 or int(found[-1] - found[0]) >= count:
            return found


def _noise(tensor: Tensor) -> Tensor:
    """Return random numbers in place of a floating-point input: an all-zero example would hide differences."""
    return torch.randn_like(tensor) if tensor.is_floating_point() else tensor


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
