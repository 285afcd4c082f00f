"""Write the bytes of an exported file, all of them or none."""

from __future__ import annotations

from pathlib import Path

from lightning_compress.core.atomic_write import atomic_write
from lightning_compress.core.errors import CompressError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file.

    Raises:
        CompressError: the folder is missing, read-only or full; a file that was there before is untouched.
    """
    try:
        with atomic_write(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise CompressError(
            f"export: cannot write {str(path)!r}: {error.strerror}; nothing was changed there"
        ) from error
