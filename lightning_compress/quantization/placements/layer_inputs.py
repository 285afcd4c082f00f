"""Quantize the input of each layer by a quantizer of its own.

Sums, concatenations and outputs stay in floating point. Use it for the smallest loss of accuracy and for runtimes that
fuse the sum into the convolution (OpenVINO). It breaks the speed of ONNX Runtime, TFLite and ExecuTorch: their integer
kernels need both ends of a layer quantized; use ``Tensors`` there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from torch import nn
from typing_extensions import override

from lightning_compress.quantization.placements.placement import Make, Placement
from lightning_compress.quantization.quantizers.weight import WeightQuantizer
from lightning_compress.surgery.transforms import attach_input


@final
class LayerInputs(Placement):
    """One quantizer for the input of each layer of the plan."""

    @override
    def tie(self, act_bits: Mapping[str, int], net: nn.Module, example: Any) -> dict[str, int]:
        return dict(act_bits)

    @override
    def attach(self, act_bits: Mapping[str, int], make: Make, net: nn.Module, example: Any) -> None:
        for name, bits in act_bits.items():
            attach_input(net.get_submodule(name), make(bits))

    def prepare_weight(self, quantizer: WeightQuantizer) -> None:
        """Leave the levels as they are: the packed file holds all of them."""
