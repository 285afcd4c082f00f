"""A quantization-aware training step beside a plain one: ``python benchmarks/qat_step.py [--compile]``.

ResNet-20, 32x32 random images, batches of 128, LSQ at 4 bits for weights and inputs of all layers, SGD.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
import torch.nn.functional as F
from timing import medians
from torch import nn

from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.quantization.quantizers.activation import ActivationQuantizer
from lightning_compress.vision.models.resnet_cifar import resnet20


def step(net: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(net(x), y).backward()
    optimizer.step()


def main() -> None:
    torch.set_num_threads(1)  # so that what else the machine does disturbs least
    torch.manual_seed(0)
    x, y = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))
    plain, quantized = resnet20(), resnet20()
    names = [n for n, m in quantized.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    QuantizationAwareTraining({name: {"weight_bits": 4, "act_bits": 4} for name in names}).apply(quantized, x)
    quantized(x)  # sets the scales of the inputs
    for module in quantized.modules():
        if isinstance(module, ActivationQuantizer):
            module.settle()  # as a training does
    nets = {"fp32": plain, "quantization-aware": quantized}
    if "--compile" in sys.argv:
        nets = {name: torch.compile(net) for name, net in nets.items()}
    jobs = {
        name: partial(step, net, torch.optim.SGD(net.parameters(), 0.01, momentum=0.9), x, y)
        for name, net in nets.items()
    }
    found = medians(jobs, rounds=10)
    for name, seconds in found.items():
        print(f"{name:22} {1e3 * seconds:8.1f} ms a step")
    print(f"{'ratio':22} {found['quantization-aware'] / found['fp32']:8.3f}   (aim, eager: 1.5)")


if __name__ == "__main__":
    main()
