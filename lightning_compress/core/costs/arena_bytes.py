"""Memory of a microcontroller that TFLite-Micro takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from lightning_compress.core.activations import peak_values
from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.costs.tflite_bytes import fits_in_nibbles
from lightning_compress.core.profile import Profile

INTERPRETER_BYTES = 900
STEP_BYTES = 240  # what the interpreter keeps of an operation and its tensors
CHANNEL_BYTES = 8  # multiplier and shift of each output channel of a layer
SUM_BYTES = 4  # of each value that a transposed convolution adds up before it is rounded


@dataclass(frozen=True)
class ArenaBytes(Cost):
    """Predicted arena of TFLite-Micro for the network in integers.

    The activations that are alive at once, one byte each, the sums that a transposed convolution keeps while it runs,
    and what the interpreter keeps of operations and channels. Compared with tflite-micro on ResNet-8, ResNet-20, a
    MobileNet block, a plain chain, a U-Net and an autoencoder: within 10 %, but for networks whose activations do not
    pack without gaps (ResNet-20 takes 65,536 bytes for 49,152). The exporter checks the arena itself.

    Args:
        int4: weights of 4 or fewer bits are stored two a byte, and each layer unpacks its own while it runs.
        weight_bits: that layers still in floating point will have, once they are quantized.
    """

    name: ClassVar[str] = "arena_bytes"
    unit: ClassVar[str] = "bytes"
    label: ClassVar[str] = "predicted arena of TFLite-Micro"
    additive: ClassVar[bool] = False

    int4: bool = False
    weight_bits: int = 8

    @override
    def __call__(self, profile: Profile) -> float:
        transposed = {layer.name for layer in profile.kernels if layer.kind == "conv_transpose"}
        channels = sum(layer.out_channels for layer in profile.kernels)
        kept = INTERPRETER_BYTES + STEP_BYTES * len(profile.steps) + CHANNEL_BYTES * channels
        packed = [layer for layer in profile.kernels if self.int4 and fits_in_nibbles(layer, self.weight_bits)]
        scratch = {layer.name: layer.weights for layer in packed}
        for step in profile.steps:
            if step.module in transposed:
                scratch[step.module] = SUM_BYTES * step.size(profile.widths)
        return peak_values(profile.steps, profile.widths, scratch) + kept
