"""Quantizers: transforms onto at most ``2 ** bits`` levels for each scale."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.surgery.transforms import Transform


class Quantizer(Transform):
    """Rounds a tensor to ``2 ** bits`` levels or fewer.

    Args:
        bits: within :attr:`bit_range`.
        shape: of the scale: ``(out, 1, 1, 1)`` for one per output channel, ``()`` for one in all.

    Attributes:
        bit_range: the smallest and largest number of bits.
        learned: whether the levels are trained, by one parameter; else they follow the tensor, or are given.
        bits: number of bits of a code; ``int(bits)`` is a plain number.

    Raises:
        CompressError: bits out of range.
    """

    bit_range: ClassVar[tuple[int, int]]
    learned: ClassVar[bool]

    def __init__(self, bits: int, shape: Sequence[int] = ()) -> None:
        super().__init__()
        least, most = self.bit_range
        if bits != int(bits) or not least <= bits <= most:
            raise CompressError(
                f"{type(self).__name__}: bits must be a whole number from {least} to {most}, got {bits}"
            )
        self.shape = tuple(shape)

    @override
    def config(self) -> dict[str, Any]:
        return {"bits": int(self.bits), "shape": list(self.shape)}

    @abstractmethod
    def initialize(self, x: Tensor) -> None:
        """Set the levels for a tensor that is about to be quantized."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(bits={int(self.bits)}, shape={self.shape})"
