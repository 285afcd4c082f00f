"""Latency in ONNX Runtime, in 8-bit integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from lightning_compress.export.onnx.exact_sums import saturates
from lightning_compress.export.onnx.latency import Latency


@dataclass(frozen=True)
class Int8Latency(Latency):
    """Milliseconds of one sample on one thread of the network in 8-bit integers; grids that are missing are added.

    Bits below 8 are stored as int8 and save no time, so it tells how much to prune.
    """

    name: ClassVar[str] = "int8_latency"
    label: ClassVar[str] = "int8 latency estimated from layers"
    integer: ClassVar[bool] = True

    round_to: int = 4

    @override
    def runtime(self) -> str:
        return super().runtime() + (", exact sums" if saturates() else ", default sums")
