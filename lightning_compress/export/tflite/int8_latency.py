"""Latency in LiteRT, in 8-bit integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_compress.export.tflite.latency import LiteRTLatency


@dataclass(frozen=True)
class LiteRTInt8Latency(LiteRTLatency):
    """Milliseconds of one sample on one thread of LiteRT, in 8-bit integers; grids that are missing are added.

    XNNPACK's kernels for AVX2 compute 8 output channels at once, those for AVX-512 16.
    """

    name: ClassVar[str] = "litert_int8_latency"
    label: ClassVar[str] = "LiteRT's int8 latency estimated from layers"
    integer: ClassVar[bool] = True

    round_to: int = 8
