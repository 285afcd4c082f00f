"""What codes take where they stand, and codes for weights that heed it.

    nearest:  argmin over q of (level - q)^2 + slope x bits(q)                        level: weight over scale
    held:     argmin over q of (level - q)^2 + slope x max(bits(q) - bits(before), 0)      slope 0: the nearest code

The bits are those of the coder's own adaptive tables for the codes of before. A held weight needs a better reason for
a dearer code, and none to stay or to get a cheaper one: in a training, a price on all bits would push weights to zero
that the loss wants where they are. Ours; rounding by rate is that of DeepCABAC (arXiv 1907.11900).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_compress.quantization.coders.range_coded import RangeCoded
from lightning_compress.quantization.rate_distortion import code_range, stored_codes, stream_bytes

FLATTEST = 1e-3  # slope that is tried first where the nearest codes do not fit
STEEPEST = 1e6  # at which all codes are the cheapest ones
HALVINGS = 14


@dataclass(frozen=True)
class CodeRates:
    """Bits of each code at each place of a weight.

    Attributes:
        bits: fp32, shape ``(tables, codes)``.
        place: int64, in the weight's shape: where the table of the place begins in ``bits``, less the lowest code.
        low, high: the codes that there are.
    """

    bits: Tensor
    place: Tensor
    low: int
    high: int

    @classmethod
    def of(cls, codes: Tensor, coder: RangeCoded) -> CodeRates:
        """Return the rates that follow from codes.

        Args:
            codes: around 0, in the weight's shape.
            coder: of the file.
        """
        low, width = code_range(codes)
        tables, which = coder.code_lengths(stored_codes(codes, low), width, codes.shape)
        place = torch.from_numpy(which).view(codes.shape) * tables.shape[1] - low
        bits = torch.from_numpy(tables).float()
        return cls(bits.to(codes.device), place.to(codes.device), low, low + 2**width - 1)

    def nearest(self, levels: Tensor, slope: float) -> Tensor:
        """Return the best of the nearest code, the next one towards 0, and 0, int64 in the shape of ``levels``.

        Args:
            levels: weights over their scale.
            slope: squared steps that a bit is worth.
        """
        first = levels.round().clamp(self.low, self.high)
        able = torch.stack([first, first - first.sign(), torch.zeros_like(first).clamp(self.low, self.high)])
        cost = (levels - able).square() + slope * self.bits.flatten()[self.place + able.long()]
        return able.gather(0, cost.argmin(0, keepdim=True))[0].long()

    def held(self, levels: Tensor, before: Tensor, slope: float | Tensor) -> Tensor:
        """Return the best of the nearest code, the next nearest, and the code of before, if only more bits cost.

        Args:
            levels: weights over their scale.
            before: the codes that the rates follow from, in the shape of ``levels``.
            slope: squared steps that a bit is worth.

        Returns:
            int64, in the shape of ``levels``.
        """
        first = levels.round().clamp(self.low, self.high)
        second = (first + (levels - first).sign()).clamp(self.low, self.high)
        able = torch.stack([first, second, before.to(first.dtype)])
        bits = self.bits.flatten()
        more = bits[self.place + able.long()] - bits[self.place + before.long()]
        cost = (levels - able).square() + slope * more.clamp_min(0)
        return able.gather(0, cost.argmin(0, keepdim=True))[0].long()


def codes_within(
    levels: Mapping[str, Tensor], rates: Mapping[str, CodeRates], room: float, coder: RangeCoded
) -> dict[str, Tensor]:
    """Return codes near the levels of all layers that together take no more than some bytes, at the least slope.

    Args:
        levels: layer -> weights over their scale.
        rates: of the layers.
        room: bytes.
        coder: of the file.
    """

    def at(slope: float) -> dict[str, Tensor]:
        return {name: rates[name].nearest(level, slope) for name, level in levels.items()}

    def fits(found: Mapping[str, Tensor]) -> bool:
        return sum(stream_bytes(codes, coder) for codes in found.values()) <= room

    best = at(0.0)
    if fits(best):
        return best
    # The cheapest codes one by one need not be the cheapest together; codes that are all alike are.
    best = {name: torch.zeros_like(x).clamp(rates[name].low, rates[name].high).long() for name, x in levels.items()}
    low, high = FLATTEST, STEEPEST
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        found = at(middle)
        if fits(found):
            high, best = middle, found
        else:
            low = middle
    return best
