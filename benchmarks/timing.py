"""Timing things side by side: they take turns, so that what else the machine does falls on all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter


def medians(jobs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each job: the median over rounds, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            began = perf_counter()
            job()
            if number:
                times[name].append(perf_counter() - began)
    return {name: median(found) for name, found in times.items()}
