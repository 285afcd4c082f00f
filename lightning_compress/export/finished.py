"""A copy of a network for inference: what is exported, and what files are compared with."""

from __future__ import annotations

from torch import nn

from lightning_compress.quantization.quantizers.activation import ActivationQuantizer
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.structure import network


def finished(module: nn.Module) -> nn.Module:
    """Return a copy of a network on the CPU, in eval mode, whose grids stay as they are however often it is called.

    Args:
        module: a LightningModule or a network; it is not changed. A grid that no batch has set still waits for one.
    """
    net = clone(network(module)).cpu().eval()
    for part in net.modules():
        if isinstance(part, ActivationQuantizer):
            part.settle()
    return net
