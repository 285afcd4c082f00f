"""Least CPU time of repeated calls, which other work on the machine disturbs least."""

from __future__ import annotations

from collections.abc import Callable
from time import thread_time


def least_milliseconds(call: Callable[[], object], runs: int = 200, seconds: float = 0.1) -> float:
    """Return the least CPU time of a call on this thread.

    Args:
        call: what is timed.
        runs: at least; short calls are repeated more often, for
        seconds: of CPU time at least.
    """
    times: list[float] = []
    started = thread_time()
    while len(times) < runs or thread_time() - started < seconds:
        began = thread_time()
        call()
        times.append(thread_time() - began)
    return 1e3 * min(times)
