"""The memory that TFLite-Micro takes for a file: its arena."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_compress.export.tflite.engines import TFLiteMicro


def arena_bytes(content: bytes) -> int:
    """Return the bytes of the arena: activations, scratch buffers and what the interpreter keeps.

    Raises:
        CompressError: tflite-micro is not installed.
    """
    interpreter = TFLiteMicro(content).interpreter
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "allocations"
        with _standard_streams_in(file):
            interpreter.print_allocations()
        (total,) = re.findall(r"Arena allocation total (\d+) bytes", file.read_text())
        return int(total)


@contextmanager
def _standard_streams_in(path: Path) -> Iterator[None]:
    """Let C code write its standard streams to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(fd) for fd in (1, 2)]
    with path.open("w") as out:
        try:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
            yield
        finally:
            for fd, old in zip((1, 2), kept, strict=True):
                os.dup2(old, fd)
                os.close(old)
