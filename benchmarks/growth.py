"""Measure how CPU seconds grow with the number of layers or choices: n, 2n, 4n.

    python benchmarks/growth.py

``load`` reads a 4-bit packed file of n convolutions with batch norms; ``choices`` are those of LayerRemoval in that
network; ``ask`` is one proposal of DDPG for n choices.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import lightning_compress as lc
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.ddpg import DDPG
from lightning_compress.surgery import measure
from lightning_compress.testing import problems
from lightning_compress.testing.searchers import told

SIZES = (50, 100, 200)
REPEATS = 3


class Deep(nn.Module):
    """Residual convolutions with batch norms, all alike."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(layers))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(layers))
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu(norm(conv(x))) + x
        return self.fc(x.mean((2, 3)))


def load(layers: int) -> Iterator[Callable[[], object]]:
    """Yield calls that load a file of so many convolutions into fresh networks."""
    net, x = Deep(layers).eval(), torch.randn(2, 8, 4, 4)
    lc.QuantizationAwareTraining({p.name: {"weight_bits": 4} for p in measure.measure(net, x).weighted}).apply(net, x)
    path = lc.save(net, Path(tempfile.mkdtemp()) / "net.safetensors")
    while True:
        fresh = Deep(layers)
        yield lambda fresh=fresh: lc.load(path, fresh)


def choices(layers: int) -> Iterator[Callable[[], object]]:
    """Yield calls that find which of so many layers can be removed."""
    net, x = Deep(layers).eval(), torch.randn(2, 8, 4, 4)
    profile = measure.measure(net, x)
    while True:
        yield lambda: lc.LayerRemoval().choices(net, profile, x)


def ask(choices: int) -> Iterator[Callable[[], object]]:
    """Yield calls that ask for a plan of so many choices, after the warm-up."""
    problem = problems.bits(layers=choices)
    searcher = DDPG(problem.problem, 0, AccuracyUnderBudget(), warmup=2)
    told(searcher, problem, 3)
    while True:
        yield searcher.ask


def main() -> None:
    """Print the least seconds of each, and how much more they are than for half as many."""
    torch.set_num_threads(1)
    for make in (load, choices, ask):
        before = None
        for size in SIZES:
            calls, best = make(size), float("inf")
            for _ in range(REPEATS):
                call = next(calls)
                began = time.process_time()
                call()
                best = min(best, time.process_time() - began)
            growth = "" if before is None else f"  x {best / before:.1f}"
            print(f"{make.__name__:8} {size:4}  {best:.3f} s{growth}", flush=True)
            before = best


if __name__ == "__main__":
    main()
