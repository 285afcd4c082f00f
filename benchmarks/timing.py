"""Timing things side by side: they take turns, so that what else the machine does falls on all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter


def medians(
    jobs: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = perf_counter
) -> dict[str, float]:
    """Seconds of each job: the median over rounds, after one round that is not counted.

    Args:
        clock: ``process_time`` for those of this process alone, where others wait for the same cores.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            began = clock()
            job()
            if number:
                times[name].append(clock() - began)
    return {name: median(found) for name, found in times.items()}
