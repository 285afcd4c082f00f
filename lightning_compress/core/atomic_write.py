"""Files that are there as a whole or not at all, whenever the process that writes them is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path, writer: str = "") -> Iterator[Path]:
    """A path beside ``path`` to write to, which takes its place in the end; after an error ``path`` is as it was.

    Args:
        writer: names this one among several processes that may write the same file at a time.
    """
    part = path.with_name(f".{path.name}{writer}.part")
    try:
        yield part
        with part.open("rb+") as written:
            os.fsync(written.fileno())  # its bytes before its name: a machine may lose power too
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
