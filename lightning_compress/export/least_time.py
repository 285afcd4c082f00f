"""Least CPU time of repeated calls, which other work on the machine disturbs least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def least_of_turns(calls: Sequence[Callable[[], object]], rounds: int = 10, seconds: float = 0.0015) -> list[float]:
    """Return the least CPU times of calls that take turns, in milliseconds.

    A busy moment of the machine, in which all takes up to a third longer, then meets all calls and not one alone.

    Args:
        calls: what is timed, in this order.
        rounds: how often each has its turn, of at least two runs; the first one finds the caches as others left them.
        seconds: of CPU time of a turn at least.
    """
    least = [float("inf")] * len(calls)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            least[i] = min(least[i], least_milliseconds(call, 2, seconds))
    return least
