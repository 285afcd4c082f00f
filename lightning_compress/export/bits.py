"""Codes of 1 to 8 bits in a stream of bytes, and back.

Code ``i`` of ``b`` bits takes bits ``i b ... (i + 1) b - 1`` of the stream, least significant first; bit ``j`` of the
stream is bit ``j mod 8`` of byte ``j div 8``. What is left of the last byte is zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 20  # codes at a time, a multiple of 8 so that chunks end on bytes; bounds the memory


def pack_bits(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The stream of ``codes``, which must be below ``2 ** bits``.

    Args:
        codes: shape ``(n,)``.

    Returns:
        Shape ``(ceil(n * bits / 8),)``.
    """
    chunks = (codes[i : i + CHUNK] for i in range(0, len(codes), CHUNK))
    streams = [
        np.packbits(np.unpackbits(chunk[:, None], axis=1, count=bits, bitorder="little"), bitorder="little")
        for chunk in chunks
    ]
    return np.concatenate(streams) if streams else np.empty(0, np.uint8)


def unpack_bits(stream: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """The first ``count`` codes of a stream, shape ``(count,)``."""
    step = CHUNK * bits // 8
    parts = [
        np.packbits(
            np.unpackbits(stream[i : i + step], bitorder="little")[: _left(i, step, count, bits)].reshape(-1, bits),
            axis=1,
            bitorder="little",
        ).ravel()
        for i in range(0, -(-count * bits // 8), step)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.uint8)


def _left(start: int, step: int, count: int, bits: int) -> int:
    """Bits of codes in the part of the stream that begins at byte ``start``."""
    return min(count * bits - 8 * start, 8 * step)
