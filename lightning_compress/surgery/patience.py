"""Say what is going on when it takes long."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

LOG = logging.getLogger(__name__)
SECONDS = 10.0


@contextmanager
def told_when_slow(message: str, seconds: float = SECONDS) -> Iterator[Timer]:
    """Log a message if what is inside takes longer than so many seconds.

    Args:
        message: what is being done.
        seconds: how long it may take without a word.

    Yields:
        The timer that logs.
    """
    timer = Timer(seconds, LOG.warning, [message])
    timer.daemon = True
    timer.start()
    try:
        yield timer
    finally:
        timer.cancel()
