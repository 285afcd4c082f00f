"""Coders of quantized weights: fixed width, or entropy-coded by the frequency of each code.

    bytes ~= n sum over codes of -p log2 p / 8,      p: the share of the weights that have the code

Sources: Deep Compression (arXiv 1510.00149, section 4) for entropy-coded codes, there by Huffman; range coding (Martin
1979) as the library constriction does it, which comes within a few bytes of the entropy. Use it where the file counts
and reading it may take longer; it gains nothing where all codes are about as frequent, as at 1 and 2 bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import constriction
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from lightning_compress.core.kinds import HasKind
from lightning_compress.export.bits import pack_bits, unpack_bits

Bytes = NDArray[np.uint8]
COUNT, LENGTH = np.dtype("<u2"), np.dtype("<u4")  # of a relative frequency, and of a stream's words


class Coder(HasKind, ABC):
    """Writes codes and reads them back."""

    @abstractmethod
    def write(self, codes: Bytes, bits: int) -> Bytes:
        """Return the stream of codes below ``2 ** bits``, shape ``(n,)``."""

    @abstractmethod
    def read(self, stream: Bytes, bits: int, count: int) -> tuple[Bytes, int]:
        """Return the first ``count`` codes of a stream, and how many of its bytes they took.

        Raises:
            ValueError: the stream is not what :meth:`write` made.
        """


@final
@dataclass(frozen=True)
class FixedWidth(Coder):
    """Each code in ``bits`` bits: the size is known beforehand, and anything can read it."""

    kind: ClassVar[str] = "fixed_width"

    @override
    def write(self, codes: Bytes, bits: int) -> Bytes:
        return pack_bits(codes, bits)

    @override
    def read(self, stream: Bytes, bits: int, count: int) -> tuple[Bytes, int]:
        size = -(-count * bits // 8)
        return unpack_bits(stream[:size], bits, count), size


@final
@dataclass(frozen=True)
class RangeCoded(Coder):
    """Each layer by a range coder (constriction's) with its own frequencies, or in fixed width where that is smaller.

    The size follows from the weights, not from the plan: predicted bytes are then an upper bound. The gain is large
    where a uniform grid has many codes near zero, and small for a k-means codebook at few bits.
    """

    kind: ClassVar[str] = "range_coded"

    @override
    def write(self, codes: Bytes, bits: int) -> Bytes:
        plain = np.concatenate([np.zeros(1, np.uint8), pack_bits(codes, bits)])
        if not codes.size:
            return plain
        counts = np.bincount(codes, minlength=2**bits)
        # Relative frequencies of 16 bits; a code that occurs must not round to never.
        table = np.maximum(np.round(counts * (65535 / counts.max())), counts > 0).astype(COUNT)
        encoder = constriction.stream.queue.RangeEncoder()
        encoder.encode(codes.astype(np.int32), _model(table))
        words = encoder.get_compressed()
        parts = [np.ones(1, np.uint8), table.view(np.uint8), np.array([len(words)], LENGTH).view(np.uint8)]
        coded = np.concatenate([*parts, words.view(np.uint8)])
        return coded if len(coded) < len(plain) else plain

    @override
    def read(self, stream: Bytes, bits: int, count: int) -> tuple[Bytes, int]:
        if not stream[0]:
            size = -(-count * bits // 8)
            return unpack_bits(stream[1 : 1 + size], bits, count), 1 + size
        if stream[0] > 1 or not count:
            raise ValueError("its codes are written in a way that is not known")
        table_end = 1 + COUNT.itemsize * 2**bits
        begin = table_end + LENGTH.itemsize
        table = np.ascontiguousarray(stream[1:table_end]).view(COUNT)
        end = begin + 4 * int(np.ascontiguousarray(stream[table_end:begin]).view(LENGTH)[0])
        if end > len(stream) or not table.any():
            raise ValueError("its codes end too early")
        words = np.ascontiguousarray(stream[begin:end]).view(np.uint32)
        decoder = constriction.stream.queue.RangeDecoder(words)
        codes = decoder.decode(_model(table), count)
        if not decoder.maybe_exhausted() or codes.max() >= 2**bits:
            raise ValueError("its codes end early, or are none")
        return codes.astype(np.uint8), end


def _model(table: NDArray) -> constriction.stream.model.Categorical:
    # One more symbol, that never occurs: the coder needs two at least.
    weights = np.append(table.astype(np.float64), 1e-9)
    return constriction.stream.model.Categorical(weights / weights.sum(), perfect=False)
