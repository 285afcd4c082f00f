"""Encode the kept units of a mask: as a bitmask, or range-coded with their density as the probability.

The coder is constriction's (docs: https://bamler-lab.github.io/constriction), a range coder in Rust. A unit costs
``-log2 p`` bits, so the size depends on the density alone; :mod:`lightning_compress.core.packed_size` predicts it.
"""

from __future__ import annotations

import constriction
import numpy as np
from numpy.typing import NDArray

from lightning_compress.core.packed_size import entropy_bytes

WORD = 4


def write_positions(kept: NDArray[np.bool_], size: int) -> NDArray[np.uint8]:
    """Return the mask ``kept``, shape ``(units,)``, in ``size`` bytes, as :func:`packed_size.mask_bytes` gives them."""
    if size < entropy_bytes(len(kept), int(kept.sum())):
        return np.packbits(kept, bitorder="little")
    coder = constriction.stream.queue.RangeEncoder()
    if 0 < kept.sum() < len(kept):
        coder.encode(kept.astype(np.int32), _model(len(kept), int(kept.sum())))
    words = coder.get_compressed()
    assert len(words) * WORD <= size, (len(kept), int(kept.sum()), len(words), size)
    return np.pad(words.view(np.uint8), (0, size - len(words) * WORD))


def read_positions(stream: NDArray[np.uint8], units: int, kept: int) -> NDArray[np.bool_]:
    """Return the mask, the inverse of :func:`write_positions`.

    Raises:
        ValueError: the stream is not what that function made.
    """
    if len(stream) < entropy_bytes(units, kept):
        found = np.unpackbits(stream, bitorder="little", count=units).astype(bool)
    elif kept in (0, units):
        found = np.full(units, bool(kept))
    else:
        words = np.ascontiguousarray(stream).view(np.uint32)
        found = constriction.stream.queue.RangeDecoder(words).decode(_model(units, kept), units).astype(bool)
    if found.sum() != kept or not np.array_equal(write_positions(found, len(stream)), stream):
        raise ValueError(f"its positions are not those of {kept} of {units} units")
    return found


def _model(units: int, kept: int) -> constriction.stream.model.Bernoulli:
    return constriction.stream.model.Bernoulli(kept / units, perfect=False)
