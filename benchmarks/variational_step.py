"""A training step with learned noise beside a plain one: ``python benchmarks/variational_step.py``.

ResNet-20, 32x32 random images, batches of 64, SGD; the gradient of the KL is part of the step. A step with weight noise
has two convolutions for each layer, so twice the plain one is what to expect.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from timing import medians
from torch import nn

from lightning_compress.callbacks.base.learned_noise import LearnedNoise
from lightning_compress.callbacks.log_normal_dropout import LogNormalDropout
from lightning_compress.callbacks.variational_dropout import VariationalDropout
from lightning_compress.pruning.patterns.kernel import Kernel
from lightning_compress.vision.models.resnet_cifar import resnet20


def step(
    net: nn.Module, callback: LearnedNoise | None, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor
) -> None:
    optimizer.zero_grad()
    F.cross_entropy(net(x), y).backward()
    if callback is not None:
        callback.add_gradient(net, 1e-5, net.parameters())
    optimizer.step()


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = torch.randn(64, 3, 32, 32), torch.randint(10, (64,))
    names = [n for n, m in resnet20().named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    jobs = {}
    for title, callback in {
        "plain": None,
        "element noise": VariationalDropout({name: {"variational": 1} for name in names}),
        "kernel noise": VariationalDropout({name: {"variational": 1} for name in names}, Kernel()),
        "channel noise": LogNormalDropout({name: {"log_normal": 1} for name in names[:-1]}),
    }.items():
        net = resnet20()
        if callback is not None:
            callback.apply(net, x)
        optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
        jobs[title] = partial(step, net.train(), callback, optimizer, x, y)
    found = medians(jobs, rounds=7)
    for title, seconds in found.items():
        print(f"{title:16} {1e3 * seconds:8.1f} ms a step   ratio {seconds / found['plain']:.2f}")


if __name__ == "__main__":
    main()
