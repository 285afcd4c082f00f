"""Work that moves none of the random numbers of the training around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.utilities.seed import isolate_rng


@contextmanager
def isolated_rng() -> Iterator[None]:
    """Put the random numbers of torch, NumPy and Python back afterwards, also where what is inside is broken off.

    Lightning's own does so only where it ends: not at an exception, nor in a generator that is closed.
    """
    isolation = isolate_rng()
    isolation.__enter__()
    try:
        yield
    finally:
        isolation.__exit__(None, None, None)
