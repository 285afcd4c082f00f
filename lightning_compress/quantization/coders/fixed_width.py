"""Codes in fixed width, without entropy coding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from lightning_compress.quantization.coders.bits import pack_bits, unpack_bits
from lightning_compress.quantization.coders.coder import Bytes, Coder


@final
@dataclass(frozen=True)
class FixedWidth(Coder):
    """Each code in ``bits`` bits: the size is known beforehand, and anything can read it."""

    kind: ClassVar[str] = "fixed_width"

    @override
    def write(self, codes: Bytes, bits: int, shape: Sequence[int], kept: NDArray[np.bool_] | None = None) -> Bytes:
        return pack_bits(codes, bits)

    @override
    def read(
        self, stream: Bytes, bits: int, shape: Sequence[int], kept: NDArray[np.bool_] | None = None
    ) -> tuple[Bytes, int]:
        count = prod(shape) if kept is None else int(kept.sum())
        size = -(-count * bits // 8)
        return unpack_bits(stream[:size], bits, count), size
