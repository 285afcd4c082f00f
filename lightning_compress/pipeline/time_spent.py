"""The time that a run took, over all processes that worked on it until its result was there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time
from typing import Any

from lightning_compress.core.errors import CompressError
from lightning_compress.core.json_record import read_record, write_record

FILE = "time.json"


@contextmanager
def timed(folder: Path) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds spent so far in a folder, those of earlier processes included.

    A process that was killed counts up to the last file that it wrote. In the folder of a finished run the time stays
    as it is, unless something is trained again.

    Args:
        folder: of the run.
    """
    kept = _read(folder / FILE)
    before = kept["spent"]
    if kept["since"] is not None:
        before += max(_last_write(folder.rglob("*")) - kept["since"], 0.0)
    began, result = time(), folder / "result.json"
    finished = result.stat().st_mtime if result.is_file() else None

    def seconds() -> float:
        if finished is not None and before and _last_write(folder.rglob("final.ckpt")) <= finished:
            return before
        return before + time() - began

    write_record(folder / FILE, {"spent": before, "since": began})
    try:
        yield seconds
    finally:
        with suppress(OSError):  # a full disk has been told by what needs it
            write_record(folder / FILE, {"spent": seconds(), "since": None})


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_record(file)
    except CompressError:  # there is none; a damaged one is no reason to end a run
        return {"spent": 0.0, "since": None}


def _last_write(files: Iterator[Path]) -> float:
    times = [0.0]
    for file in files:
        with suppress(OSError):  # a file of another process that is gone
            times.append(file.stat().st_mtime)
    return max(times)
