"""Check the order in which callbacks are listed: what each declares as ``after`` and ``before``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from lightning_compress.core.errors import CompressError


def check_order(callbacks: Sequence[Any]) -> None:
    """Raise unless each callback is listed once, and after those that it must come after.

    Raises:
        CompressError: naming the two callbacks to swap.
    """
    for first, second in combinations(callbacks, 2):
        if type(first) is type(second):
            raise CompressError(f"callbacks: {type(first).__name__} is listed twice; merge the plans and list it once")
    check_places(callbacks)


def check_places(callbacks: Sequence[Any]) -> None:
    """Raise unless callbacks are listed in an order that their ``after`` and ``before`` allow.

    Raises:
        CompressError: naming the two callbacks to swap, or two of which each wants to be behind the other.
    """
    for first, second in combinations(callbacks, 2):
        if not _precedes(second, first):
            continue
        names = type(first).__name__, type(second).__name__
        if _precedes(first, second):
            raise CompressError(
                f"callbacks: {names[0]} and {names[1]} must each be listed before the other, so they cannot be used "
                f"together; change after or before in one of the classes"
            )
        raise CompressError(f"callbacks: {names[1]} must be listed before {names[0]}; swap them")


def _precedes(one: Any, other: Any) -> bool:
    """Return whether one callback must be listed before another; a subclass is of its bases' kinds too."""
    return bool(_kinds(one) & other.after or _kinds(other) & one.before)


def _kinds(callback: Any) -> set[str]:
    return {vars(cls)["kind"] for cls in type(callback).__mro__ if "kind" in vars(cls)}
