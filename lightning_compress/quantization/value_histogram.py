"""Count how often values occur, whatever their order, layout and unit, over any number of tensors.

A value is counted under the sign, the exponent and the first 11 bits of the mantissa of its fp32 form: within 1 / 4096
of it. Counts are whole numbers, so their sums are the same in any order and on any number of processes.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor

DROPPED = 12  # bits of the mantissa
HALF = 1 << (31 - DROPPED)  # keys of each sign
TINY = torch.finfo(torch.float32).tiny
MOST = 1 << 22  # values of one tensor that are counted; of a larger one as many at random


class ValueHistogram:
    """Counts of values, with their exact extremes.

    Args:
        x: any shape and float type; NaN and infinity are not counted.

    Attributes:
        least, largest: 0-dim; both are 0 where nothing was counted. Values whose reciprocal is infinite count as zero.
    """

    def __init__(self, x: Tensor) -> None:
        x = x.detach().float().flatten()
        if x.numel() > MOST:
            at = torch.randint(x.numel(), (MOST,), generator=torch.Generator().manual_seed(0))
            least, largest = x.aminmax()
            x = torch.cat([x[at.to(x.device)], least[None], largest[None]])
        x = x[x.isfinite()]
        ends = x.aminmax() if x.numel() else (x.new_zeros(()), x.new_zeros(()))
        self.least, self.largest = (torch.where(end.abs() < TINY, 0.0, end) for end in ends)
        keys = (x.view(torch.int32) >> DROPPED) + HALF
        self._count(torch.bincount(keys, minlength=2 * HALF))

    def _count(self, dense: Tensor) -> None:
        self._keys = dense.nonzero().squeeze(1)
        self._counts = dense[self._keys]

    def _dense(self) -> Tensor:
        return self._counts.new_zeros(2 * HALF).index_copy_(0, self._keys, self._counts)

    def merge(self, other: ValueHistogram) -> Self:
        """Add the counts of another histogram to this one."""
        # By the keys that occur: arrays of all 2 ** 20 keys cost more than the forward pass of a small network.
        keys, at = torch.cat([self._keys, other._keys]).unique(return_inverse=True)
        counts = torch.cat([self._counts, other._counts])
        self._keys, self._counts = keys, counts.new_zeros(len(keys)).index_add_(0, at, counts)
        self.least = torch.minimum(self.least, other.least)
        self.largest = torch.maximum(self.largest, other.largest)
        return self

    def reduce(self) -> Self:
        """Add up the histograms of all processes; nothing where there is only one."""
        if dist.is_available() and dist.is_initialized():
            dense = self._dense()
            dist.all_reduce(dense)
            self._count(dense)
            dist.all_reduce(self.least, dist.ReduceOp.MIN)
            dist.all_reduce(self.largest, dist.ReduceOp.MAX)
        return self

    @property
    def says_nothing(self) -> bool:
        """Whether no value other than zero was counted."""
        return not bool((self.least < 0) | (self.largest > 0))

    def points(self) -> tuple[Tensor, Tensor]:
        """Return one value for each key, and its share of all, both of shape ``(n,)``, fp32.

        The same values counted twice give the same points.
        """
        middle = ((self._keys - HALF).to(torch.int32) << DROPPED) | (1 << (DROPPED - 1))
        values = middle.view(torch.float32)
        values = torch.where(values.abs() < TINY, 0.0, values)
        return values.clamp(self.least, self.largest), (self._counts.double() / self._counts.sum()).float()
