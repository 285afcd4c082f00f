"""Latency: the median time of one forward pass, on this machine.

``torch.utils.benchmark`` does the timing: it warms up, runs in blocks long enough for the clock, and waits for the GPU
where there is one. One thread is the default, since it is the setting that other work on the machine disturbs least.
Low-bit weights are unpacked to floating point before they are used, so only removed channels and layers make a network
faster here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.benchmark import Timer

from lightning_compress.core.errors import CompressError
from lightning_compress.surgery.measure import evaluating, forward


@dataclass(frozen=True)
class Latency:
    """Milliseconds per forward pass.

    Attributes:
        milliseconds: median over blocks of runs.
        spread: distance between the first and the third quartile.
        runs: forward passes that were timed.
    """

    milliseconds: float
    spread: float
    runs: int


def latency(net: nn.Module, example: Any, threads: int = 1, seconds: float = 0.5) -> Latency:
    """Time ``net(example)`` in eval mode without gradients.

    Args:
        net: its modes are left as they were.
        example: an input batch (tensor, tuple or dict) on the device of ``net``; one sample for the usual figure.
        threads: of the CPU.
        seconds: how long to measure, beside the warm-up.

    Raises:
        CompressError: ``threads`` or ``seconds`` is not positive.
    """
    if threads < 1 or seconds <= 0:
        raise CompressError(f"latency: threads and seconds must be positive, got {threads} and {seconds}")
    timer = Timer(
        "forward(net, example)", globals={"forward": forward, "net": net, "example": example}, num_threads=threads
    )
    with evaluating(net):
        found = timer.blocked_autorange(min_run_time=seconds)
    return Latency(1e3 * found.median, 1e3 * found.iqr, found.number_per_run * len(found.raw_times))
