"""A digest inside a file of torch's: whether its bytes are those that were written.

``torch.save`` writes a zip archive, and a zip archive may end with a comment. The SHA-256 of all bytes before it stands
there, so that a sealed file is still one that ``torch.load`` and ``zipfile`` read.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

PREFIX = b"lightning-compress sha256:"
LENGTH = len(PREFIX) + hashlib.sha256().digest_size * 2  # the digest in hexadecimal
CHUNK = 1 << 20


def seal(path: Path) -> None:
    """Append the digest to a file that ``torch.save`` has just written."""
    with path.open("rb+") as file:
        file.seek(-2, os.SEEK_END)  # the length of the comment, which is empty
        file.write(LENGTH.to_bytes(2, "little"))
        file.flush()
        file.write(PREFIX + _digest(path, path.stat().st_size))


def is_sealed(path: Path) -> bool:
    """Return whether a file ends with a digest, right, wrong or cut short."""
    return PREFIX in _comment(path)


def damage(path: Path) -> str | None:
    """Return in a few words what is wrong with the bytes of a file, or None.

    A zip archive without our digest is checked by the CRC-32 of each record, anything else not at all.
    """
    if path.stat().st_size == 0:
        return "it is empty"
    if is_sealed(path):
        digest = _digest(path, path.stat().st_size - LENGTH)
        return None if _comment(path) == PREFIX + digest else "its bytes are not those that were written"
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        with path.open("rb") as file:
            return "it is cut short" if file.read(2) == b"PK" else None
    return record and f"its record {record!r} has another checksum"


def _comment(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-min(LENGTH, path.stat().st_size), os.SEEK_END)
        return file.read()


def _digest(path: Path, size: int) -> bytes:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0:
            chunk = file.read(min(CHUNK, size))
            found.update(chunk)
            size -= len(chunk) or size
    return found.hexdigest().encode()
