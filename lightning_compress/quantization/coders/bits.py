"""Codes of 1 to 8 bits in a stream of bytes, and back.

Code ``i`` of ``b`` bits takes bits ``i b ... (i + 1) b - 1`` of the stream, least significant first; bit ``j`` of the
stream is bit ``j mod 8`` of byte ``j div 8``. What is left of the last byte is zero.
"""

from __future__ import annotations

from math import gcd

import numpy as np
from numpy.typing import NDArray

BYTE = 8
CHUNK = 1 << 17  # groups at a time; bounds the memory


def pack_bits(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return the stream of ``codes``, which must be below ``2 ** bits``.

    Args:
        codes: shape ``(n,)``.
        bits: of a code.

    Returns:
        Shape ``(ceil(n * bits / 8),)``.
    """
    per_group, size = _group(bits)
    groups = np.pad(codes, (0, -len(codes) % per_group)).reshape(-1, per_group)
    packed = np.zeros((len(groups), size), np.uint8)
    for start in range(0, len(groups), CHUNK):
        part, target = groups[start : start + CHUNK], packed[start : start + CHUNK]
        for byte, code, shift in _overlaps(bits):
            target[:, byte] |= part[:, code] << shift if shift >= 0 else part[:, code] >> -shift
    return packed.ravel()[: -(-len(codes) * bits // BYTE)]


def unpack_bits(stream: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Return the first ``count`` codes of a stream, shape ``(count,)``.

    Raises:
        ValueError: the stream is shorter, or what is left of its last byte is not zero.
    """
    length = -(-count * bits // BYTE)
    if len(stream) < length:
        raise ValueError(f"{count} codes of {bits} bits take {length} bytes, got {len(stream)}")
    stream = stream[:length]
    if length and int(stream[-1]) >> (BYTE - (-count * bits % BYTE)):
        raise ValueError("the bits after the last code are not zero")
    per_group, size = _group(bits)
    groups = np.pad(stream, (0, -length % size)).reshape(-1, size)
    codes = np.zeros((len(groups), per_group), np.uint8)
    for start in range(0, len(groups), CHUNK):
        part, target = groups[start : start + CHUNK], codes[start : start + CHUNK]
        for byte, code, shift in _overlaps(bits):
            moved = part[:, byte] >> shift if shift >= 0 else part[:, byte] << -shift
            target[:, code] |= moved & ((1 << bits) - 1)
    return codes.ravel()[:count]


def _group(bits: int) -> tuple[int, int]:
    """Return how many codes fill whole bytes, and how many bytes."""
    return BYTE // gcd(bits, BYTE), bits // gcd(bits, BYTE)


def _overlaps(bits: int) -> list[tuple[int, int, int]]:
    """Return (byte, code, how far up in the byte the code begins) of each pair in a group that shares bits."""
    codes, size = _group(bits)
    pairs = [(byte, code, code * bits - byte * BYTE) for byte in range(size) for code in range(codes)]
    return [pair for pair in pairs if -bits < pair[2] < BYTE]
