"""Base class of coders: the codes of a layer's weights as a stream of bytes, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_compress.core.kinds import HasKind

Bytes = NDArray[np.uint8]


class Coder(HasKind, ABC):
    """Writes codes and reads them back."""

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
