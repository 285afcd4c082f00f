"""The names of the formats that networks are exported in. Imports no torch, so that --help is quick."""

from __future__ import annotations

from pathlib import Path

import lightning_compress.conf

FORMATS = Path(lightning_compress.conf.__file__).parent / "compress" / "exporter"


def known_formats() -> list[str]:
    """Return the names of the formats."""
    return sorted(file.stem for file in FORMATS.glob("*.yaml"))
