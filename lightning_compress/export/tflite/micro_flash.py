"""Flash of a microcontroller, counted from the file before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from lightning_compress.core.costs.measured_cost import MeasuredCost
from lightning_compress.core.costs.tflite_bytes import TFLiteBytes
from lightning_compress.core.profile import Profile
from lightning_compress.export import compared
from lightning_compress.export.integer.completion import BITS, complete
from lightning_compress.export.integer.lower import lower
from lightning_compress.export.tflite.write import tflite_bytes
from lightning_compress.surgery import measure


@dataclass(frozen=True)
class MicroFlash(MeasuredCost):
    """Bytes of the .tflite file of the network in 8-bit integers; grids that are missing are added.

    A profile gives the estimate of :class:`~lightning_compress.core.costs.tflite_bytes.TFLiteBytes`, which is some
    percent above small files. A network is written, and its bytes are counted. Where ai-edge-litert is not installed, a
    network takes its estimate.

    Args:
        int4: store weights of 4 or fewer bits as ``TFLite(int4=True)`` does.
        weight_bits: that layers still in floating point will have, once they are quantized.
    """

    name: ClassVar[str] = "micro_flash"
    unit: ClassVar[str] = "bytes"
    label: ClassVar[str] = "predicted .tflite file"

    int4: bool = False
    weight_bits: int = BITS

    @override
    def __call__(self, profile: Profile) -> float:
        return TFLiteBytes(self.int4, self.weight_bits)(profile)

    @override
    def measure(self, net: nn.Module, example: Any) -> float:
        x = compared.first_samples(example)[:2]
        if find_spec("ai_edge_litert") is None:
            return self(measure.measure(net, x))
        return float(len(tflite_bytes(lower(complete(net, [x], weight_bits=self.weight_bits), x), self.int4)))

    @override
    def keep_in(self, folder: Path) -> None:
        """Keep nothing: it takes a second, and is the same on every machine."""
