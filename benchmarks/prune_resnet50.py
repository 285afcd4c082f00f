"""From a plan to a thin ResNet-50: ``python benchmarks/prune_resnet50.py``.

Cold: profile, trace and check the groups, remove. Cached: the groups are known, as from the second candidate of a
search on. Beside them one forward pass of one image.
"""

from __future__ import annotations

import copy
from time import perf_counter

import torch
import torchvision
from timing import medians

from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.plan import Plan
from lightning_compress.surgery import measure


def main() -> None:
    torch.set_num_threads(1)  # so that what else the machine does disturbs least
    torch.manual_seed(0)
    net, example = torchvision.models.resnet50().eval(), torch.randn(1, 3, 224, 224)
    began = perf_counter()
    callback = ChannelPruning()
    profile = measure.measure(net, example)
    plan = Plan({choice.layer: {choice.knob: 0.5} for choice in callback.choices(net, profile, example)})
    callback.attach(callback.resolve(plan, net, profile, example), copy.deepcopy(net), profile, example)
    cold = perf_counter() - began
    copies = iter([copy.deepcopy(net) for _ in range(11)])

    def cached() -> None:
        callback.attach(callback.resolve(plan, net, profile, example), next(copies), profile, example)

    @torch.no_grad()
    def forward() -> None:
        net(example)

    found = medians({"cached": cached, "forward pass": forward}, rounds=10)
    print(f"cold          {1e3 * cold:8.0f} ms")
    print(f"cached        {1e3 * found['cached']:8.1f} ms   (aim: under 100)")
    print(f"forward pass  {1e3 * found['forward pass']:8.1f} ms   one image of 224 pixels")
    print(f"ratio         {found['cached'] / found['forward pass']:8.2f}   cached / forward pass")


if __name__ == "__main__":
    main()
