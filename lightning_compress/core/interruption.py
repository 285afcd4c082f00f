"""SIGINT and SIGTERM end a run with one sentence, and with the exit status that shells expect: 130 and 143.

Lightning's own handlers end a ``fit`` with status 0 or 1, and during ``validate`` only set a flag that nobody reads.
They call a handler that was there before, so the one installed here raises from inside Lightning too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit):
    """A signal asked the process to end. Uncaught, it ends with 128 plus the signal's number as its exit status.

    It is no KeyboardInterrupt, which Lightning turns into status 1.

    Attributes:
        signal: that came.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(128 + number)

    def __str__(self) -> str:
        return f"interrupted by {self.signal.name}; give the same command again, and it goes on where it was"


class _Received:
    """The signal that came last, or None. Code that swallows what a handler raises cannot swallow this."""

    number: int | None = None


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise :class:`Interrupted` inside when SIGINT or SIGTERM comes, and print its sentence when that leaves.

    Inside another one, and outside the main thread, which alone may handle signals, nothing changes. A signal that is
    ignored stays ignored; a handler of the user's is called first.
    """
    if threading.current_thread() is not threading.main_thread() or any(map(_is_ours, SIGNALS)):
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _Received.number = None
    try:
        for number, handler in before.items():
            if handler not in (signal.SIG_IGN, None):  # None: a handler that Python cannot put back
                signal.signal(number, _Handler(handler))
        yield
    except BaseException as error:
        if _Received.number is None:
            raise
        # Whatever else is raised after a signal comes of it, such as of a worker that had the same signal.
        interrupted = error if isinstance(error, Interrupted) else Interrupted(_Received.number)
        print(interrupted, file=sys.stderr)
        raise interrupted from None
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
        _Received.number = None


def check_interrupted() -> None:
    """Raise again what a signal raised and other code swallowed, as Python does with errors in destructors.

    Raises:
        Interrupted: a signal has come.
    """
    if _Received.number is not None:
        raise Interrupted(_Received.number)


class _Handler:
    """Handles a signal in the process that it was made in; forked children keep their defaults.

    Args:
        before: the handler before, called first if it is the user's.
    """

    def __init__(self, before: Callable[[int, FrameType | None], Any] | int) -> None:
        self.before, self.process = before, os.getpid()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # such as a worker of a DataLoader
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        _Received.number = number
        if callable(self.before) and self.before is not signal.default_int_handler:
            self.before(number, frame)
        raise Interrupted(number)


def _is_ours(number: int) -> bool:
    return isinstance(signal.getsignal(number), _Handler)
