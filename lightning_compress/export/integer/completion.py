"""Set missing grids from data: integer kernels for networks that were not trained for them.

Weights without a quantizer get 8 bits per channel, min-max. Grids that training has set stay; a tensor that several
layers read gets that of the first one, and what a pooling averages for a layer keeps its own range. Every other tensor
that a kernel reads or writes gets the range of the data.

Then the network is fitted to the new grids (post_training.py): weights are rounded by least squares, and outputs of
layers corrected for what the new grids, and they alone, do to them. Without that a ResNet-8 has 55.6 % at weights of 4
bits, with it 86 % (benchmarks/results/deploy_post_training.txt). Source: Jacob et al. 2018 (arXiv 1712.05877, section
3.1). Use it at 8 bits with a few hundred samples, or with weights of 4 bits; at fewer, training is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError
from lightning_compress.export.finished import finished
from lightning_compress.export.integer.watched import Watcher, own_watchers, put_grids
from lightning_compress.quantization.placements.tensors import Tensors
from lightning_compress.quantization.post_training import fit_to_quantizers
from lightning_compress.quantization.quantizers.activation import ActivationQuantizer
from lightning_compress.quantization.quantizers.min_max import MinMax
from lightning_compress.quantization.quantizers.quantizer import Quantizer
from lightning_compress.surgery import transforms
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.input_errors import told_input_errors
from lightning_compress.surgery.mask import Mask
from lightning_compress.surgery.measure import KERNELS, evaluating, forward, measure
from lightning_compress.surgery.row_layout import attach_to_rows, weight_rows

BITS = 8
LAYERS = KERNELS


@torch.no_grad()
def complete(module: nn.Module, batches: Iterable[Any], bits: int = BITS, weight_bits: int | None = None) -> nn.Module:
    """Return a copy of a network in which every tensor between two kernels is quantized.

    Args:
        module: a LightningModule or a network; it is not changed.
        batches: inputs, a few hundred samples in all.
        bits: of weights and activations without a quantizer.
        weight_bits: of those weights, where it is another number.

    Raises:
        CompressError: there is no batch, the network does not accept one, its values are not finite, or a tensor cannot
            be reached by a hook.
    """
    if isinstance(batches, Tensor):
        raise CompressError("export: calibration is one tensor; pass a list of batches, such as calibration=[images]")
    batches = list(batches)
    if not batches:
        raise CompressError("export: calibration holds no batch; pass some inputs, a few hundred samples in all")
    net = finished(module)
    before = set(_quantizers(net))
    profile = measure(transforms.bake(clone(net)), batches[0])
    trained: dict[str, ActivationQuantizer] = {}
    for name, layer in net.named_modules():
        if isinstance(layer, LAYERS):
            _quantize_weight(layer, bits if weight_bits is None else weight_bits)
            quantizer = transforms.input_transform(layer)
            if isinstance(quantizer, ActivationQuantizer) and quantizer.calibrated:
                trained[name] = quantizer
    for layer in transforms.transformed(net).values():
        transforms.drop_input(layer)
        transforms.drop_output(layer)
    layers = [name for name, layer in net.named_modules() if isinstance(layer, LAYERS)]
    act_bits = {name: int(trained[name].bits) if name in trained else bits for name in layers}
    Tensors(bits).attach(act_bits, Watcher, net, batches[0])
    places = own_watchers(net)
    with evaluating(net):
        for batch in batches:
            with told_input_errors(net, batch):
                forward(net, batch)
    put_grids(places, trained)
    fit_to_quantizers(net, profile, [made for made in _quantizers(net) if made not in before], batches)
    return net


def _quantizers(net: nn.Module) -> list[Quantizer]:
    return [module for module in net.modules() if isinstance(module, Quantizer)]


def _quantize_weight(layer: nn.Module, bits: int) -> None:
    if any(not isinstance(t, Mask) for t in transforms.weight_transforms(layer)):
        return
    weight = weight_rows(layer).detach()
    quantizer = MinMax(bits, (weight.shape[0], *[1] * (weight.dim() - 1)))
    quantizer.initialize(weight)
    attach_to_rows(layer, quantizer)
