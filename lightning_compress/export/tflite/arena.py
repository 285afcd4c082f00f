"""The memory that TFLite-Micro takes for a file: its arena."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from lightning_compress.export.standard_streams import standard_streams_in
from lightning_compress.export.tflite.engines import TFLiteMicro


def arena_bytes(content: bytes) -> int:
    """Return the bytes of the arena: activations, scratch buffers and what the interpreter keeps.

    Raises:
        CompressError: tflite-micro is not installed.
    """
    interpreter = TFLiteMicro(content).interpreter
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "allocations"
        with standard_streams_in(file):
            interpreter.print_allocations()
        (total,) = re.findall(r"Arena allocation total (\d+) bytes", file.read_text())
        return int(total)
