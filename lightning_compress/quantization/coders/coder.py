"""Base class of coders: the codes of a layer's weights as a stream of bytes, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_compress.core.errors import CompressError
from lightning_compress.core.kinds import HasKind

Bytes = NDArray[np.uint8]
NUMBERS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Coder(HasKind, ABC):
    """Writes codes and reads them back.

    Args:
        numbers: type of all that is no code in a network that has codes (scales, biases, weights of layers that are not
            quantized): ``float32``, which loses nothing, or ``bfloat16``, two bytes smaller each and rounded to a
            relative error of 0.2 % at most. A network without codes is stored as it is.

    Raises:
        CompressError: ``numbers`` is another type.
    """

    numbers: str = "float32"

    def __post_init__(self) -> None:
        if self.numbers not in NUMBERS:
            raise CompressError(
                f"{type(self).__name__}: numbers must be one of {', '.join(NUMBERS)}, got {self.numbers!r}"
            )

    @property
    def number_type(self) -> torch.dtype:
        """Type in which numbers are stored."""
        found: torch.dtype = getattr(torch, self.numbers)
        return found

    @property
    def number_bytes(self) -> int:
        """Bytes of a number."""
        return self.number_type.itemsize

    @abstractmethod
    def write(self, codes: Bytes, bits: int, shape: Sequence[int], kept: NDArray[np.bool_] | None = None) -> Bytes:
        """Return the stream of the codes of a layer.

        Args:
            codes: below ``2 ** bits``, shape ``(n,)``: those of the kept weights, in order.
            bits: of a code.
            shape: of the layer's weight: ``(out, in, *kernel)``.
            kept: which weights are stored, in that shape; None for all.
        """

    @abstractmethod
    def read(
        self, stream: Bytes, bits: int, shape: Sequence[int], kept: NDArray[np.bool_] | None = None
    ) -> tuple[Bytes, int]:
        """Return the codes of a layer at the start of a stream, and how many of its bytes they took.

        Args:
            stream: which may be damaged or hostile.
            bits: as for :meth:`write`.
            shape: as for :meth:`write`.
            kept: as for :meth:`write`.

        Raises:
            ValueError: the stream is not what :meth:`write` made.
        """
