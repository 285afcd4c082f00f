"""JSON files of a run that are read again: written as a whole, with a digest of what they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_compress.core.atomic_write import atomic_write
from lightning_compress.core.errors import CompressError

DIGEST = "sha256"


def write_record(file: Path, data: Mapping[str, Any]) -> None:
    """Write a mapping of plain types, and the SHA-256 of its canonical JSON under the key ``sha256``."""
    with atomic_write(file) as part:
        part.write_text(json.dumps({**data, DIGEST: _digest(data)}, indent=2))


def read_record(file: Path, remedy: str = "delete it and run the same command again") -> dict[str, Any]:
    """Return what :func:`write_record` wrote, without the digest.

    Args:
        file: to read.
        remedy: what to do about a damaged file, for the message.

    Raises:
        CompressError: it cannot be read, or is not as it was written.
    """
    try:
        data = json.loads(file.read_text())
        if not isinstance(data, dict):
            raise ValueError(f"it holds {type(data).__name__}, expected a mapping")
        digest = data.pop(DIGEST, None)
        if digest != _digest(data):
            raise ValueError("it has no digest" if digest is None else "its values are not those that were written")
    except (OSError, ValueError) as error:
        raise CompressError(f"{str(file)!r} is damaged ({error}); {remedy}") from error
    return data


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
