"""Bytes of the int8 .tflite file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.profile import LayerProfile, Profile

FILE_BYTES = 2200
LAYER_BYTES = 540  # its operators and tensors, with a share of the sums, poolings and reshapings between layers
INT4_BITS = 4  # of a weight, at most
CHANNEL_BYTES = 12  # bias, scale of the weight, scale of the bias; zero points are shared


def fits_in_nibbles(layer: LayerProfile, weight_bits: int) -> bool:
    """Return whether ``TFLite(int4=True)`` stores two weights of a layer in a byte.

    Args:
        layer: its profile.
        weight_bits: that it will have, if it is still in floating point.
    """
    return layer.kind == "conv" and min(layer.weight_bits, weight_bits) <= INT4_BITS


@dataclass(frozen=True)
class TFLiteBytes(Cost):
    """Flash that the network takes on a microcontroller; an upper bound within 2 % for ResNets from 80 kB on.

    Weights count one byte each, whatever their bits; pruned channels make the file smaller, masks do not.

    Args:
        int4: count half a byte for weights of convolutions with 4 or fewer bits, as ``TFLite(int4=True)`` stores them.
        weight_bits: that layers still in floating point will have, once they are quantized.
    """

    name: ClassVar[str] = "tflite_bytes"
    unit: ClassVar[str] = "bytes"
    label: ClassVar[str] = "predicted .tflite file"

    int4: bool = False
    weight_bits: int = 8

    @override
    def __call__(self, profile: Profile) -> float:
        return FILE_BYTES + sum(self._bytes(layer) for layer in profile.kernels)

    def _bytes(self, layer: LayerProfile) -> int:
        half = self.int4 and fits_in_nibbles(layer, self.weight_bits)
        codes = -(-layer.weights // 2) if half else layer.weights
        return codes + CHANNEL_BYTES * layer.out_channels + LAYER_BYTES
