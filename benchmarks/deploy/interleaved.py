"""CPU time of calls that take turns, so that other work on the machine meets all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import process_time


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int, repeats: int = 5) -> dict[str, float]:
    """Return the least milliseconds of CPU time of each call.

    Args:
        calls: on one thread each.
        rounds: in which the calls take turns.
        repeats: of a call at its turn; the first finds the caches as the others left them.
    """
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            for _ in range(repeats):
                began = process_time()
                call()
                least[name] = min(least[name], process_time() - began)
    return {name: 1e3 * seconds for name, seconds in least.items()}
