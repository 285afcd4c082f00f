"""Number formats of weights: what ``save`` and ``load`` ask of a weight quantizer, whether its grid is uniform or not.

A format says which code a weight gets and what a code stands for. It need not be a uniform grid: powers of two, a
codebook, small floating-point numbers. A packed file holds the codes, one scale per output channel and, where the
levels do not follow from the number of bits, a table of them; it is read without the class that made it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lightning_compress.quantization.quantizers.quantizer import Quantizer
from lightning_compress.surgery.transforms import WEIGHT, weight_transforms


@dataclass(frozen=True)
class StoredWeight:
    """A quantized weight as a packed file holds it.

    Attributes:
        bits: of a code.
        codes: uint8, in the weight's shape; those of pruned weights mean nothing.
        kept: bool, in the weight's shape: which weights are not pruned.
        scale: fp32, a factor on the levels, ``(out, 1, ...)`` or ``()``; of any sign, as a batch norm may be folded
            into it.
        table: fp32, shape ``(n,)``, as :attr:`WeightFormat.table`.
    """

    bits: int
    codes: Tensor
    kept: Tensor
    scale: Tensor
    table: Tensor


class WeightFormat(Quantizer):
    """A quantizer of weights with integer codes. Arguments as for :class:`Quantizer`.

    A sub-class has ``bits``, ``initialize``, ``codes`` and ``decode``; one whose levels are trained overrides
    ``forward`` too.
    """

    bit_range: ClassVar[tuple[int, int]] = (1, 8)

    @staticmethod
    def stored(bits: int, channels: int) -> dict[str, int]:
        """Return the fields of a layer's profile that this format sets.

        Args:
            bits: of a code.
            channels: scales of the layer: its output channels, or 1.
        """
        return {"weight_bits": bits, "weight_scales": channels, "codebook": 2**bits}

    @property
    def settled(self) -> bool:
        """Whether the codes are those that will stay; a file is written only then."""
        return True

    @property
    def table(self) -> Tensor:
        """What each code stands for at a scale of one, fp32, as many values as ``stored`` says under ``codebook``."""
        return self.decode(torch.arange(2 ** int(self.bits)), torch.ones(()))

    def reader(self) -> dict[str, Any]:
        """Return the spec of the transform that ``load`` attaches: its kind and what :meth:`from_stored` takes."""
        return {"kind": "fixed_levels"}

    @abstractmethod
    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes (uint8, shape of ``weight``, below ``2 ** bits``) and scale, :attr:`shape`.

        ``decode`` of them is what :meth:`forward` gives for ``weight``.
        """

    @abstractmethod
    def decode(self, codes: Tensor, scale: Tensor) -> Tensor:
        """Return what codes stand for, fp32: the level of each, times the scale."""

    @classmethod
    def from_stored(cls, stored: StoredWeight) -> Self:
        """Return the transform with the levels of a file. Only those that :meth:`reader` names need this."""
        raise NotImplementedError

    def forward(self, weight: Tensor) -> Tensor:
        """Round to the nearest level, fp32 in mixed precision too; gradients pass straight through."""
        mixed = torch.is_autocast_enabled(weight.device.type)
        with torch.autocast(weight.device.type, enabled=False):
            found = _StraightThrough.apply(weight.float(), self.decode(*self.codes(weight)))
        return found if mixed else found.to(weight.dtype)


def weight_format(module: nn.Module, key: str = WEIGHT) -> WeightFormat:
    """Return the quantizer of a weight that has one.

    Args:
        module: of the weight.
        key: its name there.
    """
    return next(t for t in weight_transforms(module, key) if isinstance(t, WeightFormat))


class _StraightThrough(torch.autograd.Function):
    """The second argument, with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, quantized: Tensor) -> Tensor:
        return quantized

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
