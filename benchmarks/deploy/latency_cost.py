"""Measure how well costs rank latencies: 20 random channel plans of ResNet-20, measured twice in ONNX Runtime.

    python benchmarks/deploy/latency_cost.py

Each plan keeps a random share of the channels of each group, rounded as channel pruning does under the cost. Spearman's
correlation with the first measurement of whole networks: of MACs, of the estimate from layers by which budgets project,
and of a second measurement, which is what the cost gives.
"""

from __future__ import annotations

import copy

import torch
from scipy.stats import spearmanr

from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.plan import Plan
from lightning_compress.export.onnx.int8_latency import Int8Latency
from lightning_compress.export.onnx.latency import Latency
from lightning_compress.surgery import measure
from lightning_compress.vision.models.resnet_cifar import resnet20

PLANS, SEED = 20, 0


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    net, example = resnet20().eval(), torch.randn(2, 3, 32, 32)
    dense = measure.measure(net, example)
    print(f"{PLANS} plans of ResNet-20, seed {SEED}, batch 1, one thread, least CPU time")
    for cost in (Latency(), Int8Latency()):
        callback = ChannelPruning(round_to=cost.round_to)
        choices = callback.choices(net, dense, example)
        macs, estimated, first, second = [], [], [], []
        for _ in range(PLANS):
            ratios = {c.layer: {"channels": 0.2 + 0.8 * float(torch.rand(()))} for c in choices}
            plan = callback.resolve(Plan(ratios), net, dense, example)
            thin = copy.deepcopy(net)
            callback.with_plan(plan).apply(thin, example)
            profile = callback.predict(plan, dense)
            macs.append(MACs()(profile))
            estimated.append(cost(profile))
            first.append(cost.measure(thin, example))
            second.append(type(cost)().measure(thin, example))
        ratio = sum(estimated) / sum(first)
        told = ", ".join(
            f"{name} {spearmanr(found, first).statistic:.2f}"
            for name, found in (("MACs", macs), ("estimate", estimated), ("measured again", second))
        )
        print(
            f"{cost.name}: {min(first):.3f} to {max(first):.3f} ms, dense {cost.measure(net, example):.3f}; Spearman: "
            f"{told}; the estimate is {ratio:.2f} of the measured time"
        )


if __name__ == "__main__":
    main()
