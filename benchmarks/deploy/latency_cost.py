"""Measure how well costs rank latencies: 20 random channel plans of ResNet-20, measured twice in a runtime.

    python benchmarks/deploy/latency_cost.py int8_latency litert_int8_latency

Each plan keeps a random share of the channels of each group, rounded as channel pruning does under the cost. The whole
networks take turns, so that a busy moment of the machine meets all of them, and each has the least of its CPU times.
Spearman's correlation with that: of MACs, of the estimate from layers by which budgets project, of what the cost
measures in one go, and of the same turns once more.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.stats import spearmanr
from torch import Tensor, nn

from lightning_compress.app.formats import FORMATS
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.plan import Plan
from lightning_compress.export.compared import machine
from lightning_compress.export.deployable import deployable
from lightning_compress.export.least_time import least_of_turns
from lightning_compress.export.onnx.latency import Latency
from lightning_compress.export.onnx.session import Session
from lightning_compress.export.onnx.write import onnx_bytes
from lightning_compress.export.tflite.engines import LiteRT, stored_input
from lightning_compress.export.tflite.latency import LiteRTLatency
from lightning_compress.export.tflite.write import tflite_bytes
from lightning_compress.surgery import measure
from lightning_compress.vision.models.resnet_cifar import resnet20

PLANS, SEED, ROUNDS, SECONDS = 20, 0, 12, 0.01


def call_of(cost: Latency, net: nn.Module, x: Tensor) -> Callable[[], object]:
    """Return what runs a network once, as the cost runs it."""
    graph = deployable(net, x, [x] if cost.integer else None).graph
    if isinstance(cost, LiteRTLatency):
        return LiteRT(tflite_bytes(graph, int4=False)).call(stored_input(x[:1], graph.tensors[graph.input].grid))
    return Session(onnx_bytes(graph)).call(x[:1])


def rank(cost: Latency, net: nn.Module, example: Tensor) -> None:
    """Print the correlations of one cost."""
    dense, callback = measure.measure(net, example), ChannelPruning(round_to=cost.round_to)
    choices = callback.choices(net, dense, example)
    macs, estimated, in_one_go, calls = [], [], [], [call_of(cost, net, example)]
    torch.manual_seed(SEED)
    ratios = [{c.layer: {"channels": 0.2 + 0.8 * float(torch.rand(()))} for c in choices} for _ in range(PLANS)]
    for given in ratios:
        plan = callback.resolve(Plan(given), net, dense, example)
        thin = copy.deepcopy(net)
        callback.with_plan(plan).apply(thin, example)
        profile = callback.predict(plan, dense)
        macs.append(MACs()(profile))
        estimated.append(cost(profile))
        in_one_go.append(cost.measure(thin, example))
        calls.append(call_of(cost, thin, example))
    whole, *first = least_of_turns(calls, ROUNDS, SECONDS)
    _, *second = least_of_turns(calls, ROUNDS, SECONDS)
    told = ", ".join(
        f"{name} {spearmanr(found, first).statistic:.2f}"
        for name, found in (
            ("MACs", macs), ("estimate", estimated), ("measured in one go", in_one_go), ("measured again", second)
        )
    )  # fmt: skip
    print(
        f"{cost.name}, {cost.runtime()}: {min(first):.3f} to {max(first):.3f} ms, dense {whole:.3f}; Spearman: {told}; "
        f"the estimate is {sum(estimated) / sum(first):.2f} of the measured time",
        flush=True,
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    net, example = resnet20().eval(), torch.randn(2, 3, 32, 32)
    print(f"{PLANS} plans of ResNet-20, seed {SEED}, batch 1, one thread, least CPU time, {machine()}")
    for name in sys.argv[1:] or ("latency", "int8_latency"):
        rank(instantiate(OmegaConf.load(FORMATS.parent / "cost" / f"{name}.yaml")), net, example)


if __name__ == "__main__":
    main()
