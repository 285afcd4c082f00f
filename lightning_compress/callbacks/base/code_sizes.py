"""Bytes that a coder needs for the codes of a network that is about to be quantized: each layer is quantized and coded.

    bytes(layer) = stored weights x rate(layer, bits, density) / 8,      rate: bits of a stored weight, measured

Rates are those of the weights as they are, with the quantizers as they start: training moves them. Each width is
coded once. A layer with fewer channels has the rate of the whole layer, and what a coder takes to learn its codes; one
whose weights are masked the rate of its largest weights, measured at a few densities. A rate is at least that of fewer
bits, so that costs never fall there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.core.costs.cost import Write
from lightning_compress.core.packed_size import code_bytes, is_sparse, stored_weights
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.quantization.quantizers.weight_format import weight_format
from lightning_compress.surgery.isolated_rng import isolated_rng
from lightning_compress.surgery.mask import Mask, mask_of
from lightning_compress.surgery.matrices import weight_place
from lightning_compress.surgery.structure import Structure, structure_of, write_structure
from lightning_compress.surgery.transforms import WEIGHT, attach_weight, raw_weight, weight_before

KNOB = "weight_bits"
DENSITIES = (1.0, 0.5, 0.25, 0.1, 0.03)  # at which rates are measured; between them they are interpolated
ANEW = 12  # bytes for each bit of a code, in which a coder learns the codes of a layer
MOST = 1 << 20  # weights of a layer that are coded: of larger ones the first output channels


class MeasuredCodeSizes:
    """``(write, layer) -> bytes`` of the codes that a layer of a network gets.

    Args:
        net: the network; it is only read.
        profile: of it.
        widths: layer -> bits that it may get.
        apply: ``(net, plan)``: quantizes a copy in place.
    """

    def __init__(
        self,
        net: nn.Module,
        profile: Profile,
        widths: Mapping[str, Sequence[int]],
        apply: Callable[[nn.Module, Plan], None],
    ) -> None:
        self._net, self._profile, self._apply = net, profile, apply
        fixed = {layer.name: (layer.weight_bits,) for layer in profile.quantizable if layer.weight_bits < 32}
        self._widths = {**widths, **fixed}
        self._free = frozenset(widths) - fixed.keys()
        self._known: dict[tuple[Write, int, float], dict[str, float]] = {}

    def __call__(self, write: Write, layer: LayerProfile) -> int:
        """Return bytes; in fixed width for layers that the network before its compression does not have."""
        widths = self._widths.get(layer.name, ())
        if layer.weight_bits not in widths:
            return code_bytes(layer)
        density = layer.density if is_sparse(layer) and not is_sparse(self._profile[layer.name]) else 1.0
        rates = [self._rate(write, layer.name, bits, density) for bits in widths if bits <= layer.weight_bits]
        whole = max(rates) * stored_weights(replace(layer, **self._shape(layer.name))) / 8
        share = layer.weights / self._profile[layer.name].weights
        # Adaptive probabilities begin anew in each layer, however small; never so much that fewer channels cost more.
        anew = min(ANEW * layer.weight_bits, whole / 2) * (1 - share)
        return min(round(whole * share + anew), code_bytes(layer) + 1)

    def _shape(self, name: str) -> dict[str, Any]:
        layer = self._profile[name]
        return {field: getattr(layer, field) for field in ("in_channels", "out_channels", "groups", "kernel")}

    def _rate(self, write: Write, name: str, bits: int, density: float) -> float:
        below = max((d for d in DENSITIES if d <= density), default=DENSITIES[-1])
        above = min(d for d in DENSITIES if d >= density)
        low, high = (self._rates(write, bits, d).get(name, float(bits)) for d in (below, above))
        return low if above <= below else low + (high - low) * (density - below) / (above - below)

    def _rates(self, write: Write, bits: int, density: float) -> dict[str, float]:
        """Return layer -> bits of a stored weight, for all layers that may have these bits."""
        key = write, bits, density
        if key not in self._known:
            names = [name for name, widths in self._widths.items() if bits in widths]
            net = self._quantized([name for name in names if name in self._free], bits, density)
            found = {name: _rate_of(net, name, bits, write) for name in names}
            self._known[key] = {name: rate for name, rate in found.items() if rate is not None}
        return self._known[key]

    @torch.no_grad()
    def _quantized(self, names: Sequence[str], bits: int, density: float) -> nn.Module:
        net = copy.deepcopy(self._net)
        if structure_of(net) is None:  # layers are not to be measured again, with masks
            write_structure(net, Structure(self._profile))
        for name in names if density < 1 else ():
            module, key = weight_place(net, name)
            if key == WEIGHT and mask_of(module) is None:
                weight = raw_weight(module)
                mask = Mask(weight.shape).to(weight.device)
                mask.mask.copy_(_largest(weight, density))
                mask.settled.fill_(True)
                attach_weight(module, mask)
        with isolated_rng():  # a quantizer may draw its first values
            self._apply(net, Plan({name: {KNOB: bits} for name in names}))
        return net


def _largest(weight: Tensor, density: float) -> Tensor:
    size = weight.abs().flatten()
    kept = torch.zeros_like(size, dtype=torch.bool)
    kept[size.topk(max(round(density * len(size)), 1)).indices] = True
    return kept.view_as(weight)


@torch.no_grad()
def _rate_of(net: nn.Module, name: str, bits: int, write: Write) -> float | None:
    """Return bits of a stored weight; None where there are none, or codes are not known before a training."""
    module, key = weight_place(net, name)
    form = weight_format(module, key)
    if not form.settled:
        return None
    codes, mask = form.codes(weight_before(module, form, key))[0], mask_of(module, key)
    rows = max(MOST // max(prod(codes.shape[1:]), 1), 1)
    codes, kept = codes[:rows].cpu(), None if mask is None else mask[:rows].cpu()
    stored = codes.flatten() if kept is None else codes[kept]
    if not len(stored):
        return None
    stream = write(stored.numpy(), bits, codes.shape, None if kept is None else kept.numpy())
    return 8 * len(stream) / len(stored)
