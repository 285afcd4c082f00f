"""The progress bar of a search."""

from __future__ import annotations

from math import inf

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def progress_bar() -> Progress:
    """Return the progress bar of a search; its tasks have a ``note`` field."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    # A trial may take an hour, and the time left needs two.
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), speed_estimate_period=inf)
