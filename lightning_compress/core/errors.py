"""The errors of the framework: each message names the layer, the value got, what was expected and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class CompressError(ValueError):
    """Root of all errors raised for bad input; the application prints it without a traceback and exits with 1."""


class NoEffectError(CompressError):
    """A plan, pattern or callback matched nothing; going on would train the dense network silently."""


class InfeasibleBudgetError(CompressError):
    """No plan of the space meets the budget; the message gives the smallest limit that one does."""


class PackedFileError(CompressError):
    """A packed file is truncated, corrupted, foreign, or made for another network."""


class TrialFailedError(CompressError):
    """One candidate could not be scored (for example a NaN loss); the search records it and goes on."""


class AllTrialsFailedError(CompressError):
    """A search ended without a single score."""


def first_line(error: BaseException) -> str:
    r"""Return the first line of what an error says, or its kind: ``assert`` and ``StopIteration`` say nothing.

    >>> first_line(ValueError("no such axis\n  at line 3")), first_line(AssertionError())
    ('no such axis', 'AssertionError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest candidates, or an empty string when none is close.

    >>> did_you_mean("layer1.conv", ["layer1.conv1", "fc"])
    "; did you mean 'layer1.conv1'?"
    """
    close = get_close_matches(name, list(candidates), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
