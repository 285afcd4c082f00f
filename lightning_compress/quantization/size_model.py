"""Size models: the papers' weight bits, or all that the packed file needs for the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, final

from typing_extensions import override

from lightning_compress.core.kinds import HasKind
from lightning_compress.core.packed_size import entropy_bits

WORD = 32  # bits of an fp32 value


class SizeAccount(HasKind, ABC):
    """Size in bits of a layer's pruned and quantized weight."""

    @abstractmethod
    def index_bits(self, kept: int, weights: int) -> float:
        """Return bits that say where ``kept`` of ``weights`` are."""

    @abstractmethod
    def codebook_bits(self, bits: int) -> float:
        """Return bits of the values that codes of ``bits`` point to."""

    @final
    def layer(self, kept: int, weights: int, bits: int) -> int:
        """Return all bits of a layer, whole ones as in a file: both projections count alike."""
        return ceil(bits * kept + self.index_bits(kept, weights) + self.codebook_bits(bits))


@final
@dataclass(frozen=True)
class WeightBitsAccount(SizeAccount):
    """Codes of the nonzero weights alone: the metric of papers 1 and 5, which hides indices and codebooks."""

    kind: ClassVar[str] = "weight_bits"

    @override
    def index_bits(self, kept: int, weights: int) -> float:
        return 0.0

    @override
    def codebook_bits(self, bits: int) -> float:
        return 0.0


@final
@dataclass(frozen=True)
class FileAccount(SizeAccount):
    """Codes, positions at their entropy, and fp32 codebooks: what the packed file spends on the weights."""

    kind: ClassVar[str] = "file"

    @override
    def index_bits(self, kept: int, weights: int) -> float:
        return entropy_bits(weights, kept)

    @override
    def codebook_bits(self, bits: int) -> float:
        return WORD * 2.0**bits
