"""Tracing the channel groups of a network beside Torch-Pruning's trace and pruning together.

    python benchmarks/trace.py                  # three networks, each in a process of its own
    python benchmarks/trace.py vit_b_16

CPU seconds, the least of three, at one image of 224 x 224; and the memory that the trace takes at its peak, as a
multiple of the network's parameters.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from time import process_time

import torch
import torch_pruning
import torchvision
from torch import Tensor, nn

from lightning_compress.surgery import measure
from lightning_compress.surgery.graph.trace_channels import trace_channels

NETWORKS = ("resnet50", "efficientnet_b0", "vit_b_16", "densenet201")
REPEATS = 3


def theirs(net: nn.Module, x: Tensor) -> None:
    """Prune half of the channels by Torch-Pruning."""
    last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1:]
    importance = torch_pruning.importance.MagnitudeImportance()
    torch_pruning.pruner.MagnitudePruner(net, x, importance, pruning_ratio=0.5, ignored_layers=last).step()


def seconds(call: Callable[[], object]) -> float:
    began = process_time()
    call()
    return process_time() - began


def peak() -> int:
    """Return the most bytes that the process has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def row(name: str) -> str:
    """Return the line of one network."""
    torch.manual_seed(0)
    make, x = getattr(torchvision.models, name), torch.randn(1, 3, 224, 224)
    net = make(weights=None).eval()
    profile, size = measure.measure(net, x), sum(p.nbytes for p in net.parameters())
    before = peak()
    ours = [seconds(lambda: trace_channels(net, profile, x)) for _ in range(REPEATS)]
    memory = (peak() - before) / size
    other = min(seconds(partial(theirs, make(weights=None).eval(), x)) for _ in range(REPEATS))
    return f"{name:16} {min(ours):6.2f} s  {other:14.2f} s  {min(ours) / other:5.2f}x  {memory:5.2f} copies"


def main() -> None:
    """Print a table."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--one"]:
        print(row(sys.argv[2]))
        return
    print(f"{'network':16} {'ours':>8}  {'Torch-Pruning':>16}  ratio  memory")
    for name in sys.argv[1:] or NETWORKS:
        command = [sys.executable, __file__, "--one", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(done.stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
