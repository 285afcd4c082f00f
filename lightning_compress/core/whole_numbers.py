"""Check whole numbers that people set: what else there may be is said in a sentence, before it is used."""

from __future__ import annotations

from lightning_compress.core.errors import CompressError

SEEDS = 2**32  # numpy has no more


def check_whole(name: str, number: object, least: int, below: int | None = None) -> None:
    """Raise unless a number is whole and not too small or too large.

    Args:
        name: as the user knows it, for the message.
        number: to check.
        least: the smallest that it may be.
        below: what it must be below; None sets no end.

    Raises:
        CompressError: it is no whole number, or out of that range.
    """
    end = "" if below is None else f", below {below}"
    if isinstance(number, bool) or not isinstance(number, int):
        raise CompressError(f"{name} must be a whole number, {least} or more{end}, got {number!r}")
    if number < least or (below is not None and number >= below):
        raise CompressError(f"{name} must be {least} or more{end}, got {number}")


def check_seed(seed: object) -> None:
    """Raise unless a seed is one of all libraries that draw random numbers.

    Raises:
        CompressError: it is no whole number from 0 to 2**32 - 1.
    """
    check_whole("seed", seed, 0, SEEDS)
