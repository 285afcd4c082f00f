"""Quantize tensors rather than layer inputs: every operation between two layers has an integer kernel then.

One quantizer serves all readers of a tensor. What feeds a sum and the output of the network are quantized too; pooling,
reshaping and concatenation keep the grid of what they read. Source: the integer-arithmetic-only inference of Jacob et
al. 2018 (arXiv 1712.05877, sections 2 and 3), and the rules of ONNX Runtime, TFLite and XNNPACK kernels. Use it for
these runtimes. It costs accuracy where a sum has branches of very different ranges.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn
from typing_extensions import override

from lightning_compress.quantization.placements.grids import SharedGrid, shared_grids, site_of
from lightning_compress.quantization.placements.placement import Make, Placement
from lightning_compress.quantization.quantizers.weight import WeightQuantizer
from lightning_compress.surgery.graph.dataflow import Dataflow, Operation, dataflow
from lightning_compress.surgery.transforms import INPUT, attach_input, attach_output, input_transform


class Tensors(Placement):
    """One quantizer for each tensor that an integer kernel reads or writes.

    Args:
        bits: of tensors that no layer of the plan reads: what feeds a sum, the output.
    """

    def __init__(self, bits: int = 8) -> None:
        self.bits = bits

    def unquantized(self, flow: Dataflow, operation: Operation) -> Collection[int]:
        """Return the tensors that the kernel of a sum reads unquantized: none, for it rescales each of them."""
        return ()

    @override
    def tie(self, act_bits: Mapping[str, int], net: nn.Module, example: Any) -> dict[str, int]:
        tied = dict(act_bits)
        for grid in self._grids(act_bits, net, example) if act_bits else ():
            tied.update(dict.fromkeys(grid.layers, self._bits(grid, act_bits)))
        return tied

    @override
    def attach(self, act_bits: Mapping[str, int], make: Make, net: nn.Module, example: Any) -> None:
        if not act_bits:
            return
        flow = dataflow(net, example)
        for grid in self._grids(act_bits, net, example):
            sites = [site_of(flow, tensor) for tensor in grid.tensors]
            quantizer = make(self._bits(grid, act_bits))
            for name in grid.layers:
                attach_input(net.get_submodule(name), quantizer)
            for site in sites:
                module = net.get_submodule(site.module)
                if site.slot != INPUT:
                    attach_output(module, quantizer)
                elif input_transform(module) is not quantizer:
                    attach_input(module, quantizer)

    def prepare_weight(self, quantizer: WeightQuantizer) -> None:
        """Use as many levels below zero as above: integer kernels multiply weights without a zero point."""
        quantizer.use_narrow_range()

    def _grids(self, act_bits: Mapping[str, int], net: nn.Module, example: Any) -> list[SharedGrid]:
        return shared_grids(dataflow(net, example), act_bits, self.unquantized)

    def _bits(self, grid: SharedGrid, act_bits: Mapping[str, int]) -> int:
        return max((act_bits[name] for name in grid.layers), default=self.bits)
