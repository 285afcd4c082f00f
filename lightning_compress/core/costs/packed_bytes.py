"""Bytes of the packed file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Protocol, Self

from typing_extensions import override

from lightning_compress.core.costs.cost import CodeSizes, Cost
from lightning_compress.core.packed_size import FLOAT_BYTES, LayerBytes, code_bytes, packed_bytes
from lightning_compress.core.profile import Profile


class Writer(Protocol):
    """A coder, as far as a cost needs one."""

    @property
    def number_bytes(self) -> int:
        """Bytes of a number that is no code."""

    def write(self, codes: Any, bits: int, shape: Any, kept: Any = None) -> Any:
        """Return the stream of the codes of a layer."""


@dataclass(frozen=True)
class PackedBytes(Cost):
    """Bytes of the packed file with everything needed to run the network.

    In fixed width they are an upper bound within 2 %. What another coder takes depends on the codes: with the weights
    of a network (:meth:`for_weights`) it is within 2 % of the file that is saved before any training; without, codes
    count in fixed width, and so do those of low-rank factors, which are not there yet: such files are up to a tenth
    smaller.

    Args:
        coder: that the file will be written with; None for fixed width.
    """

    name: ClassVar[str] = "packed_bytes"
    unit: ClassVar[str] = "bytes"
    label: ClassVar[str] = "size of the packed file"

    coder: Writer | None = None
    _codes: LayerBytes = field(default=code_bytes, repr=False, compare=False)

    @override
    def __call__(self, profile: Profile) -> float:
        return packed_bytes(profile, self._codes, FLOAT_BYTES if self.coder is None else self.coder.number_bytes)

    @override
    def for_weights(self, sizes: CodeSizes) -> Self:
        return self if self.coder is None else replace(self, _codes=partial(sizes, self.coder.write))
