"""The application's files that are not Python: its configuration and its recipes."""

from __future__ import annotations

from pathlib import Path


def shipped(name: str) -> Path:
    """Return a folder of the application: inside the package when installed, at the top of the repository in a clone.

    Args:
        name: ``conf`` or ``recipes``; pyproject.toml puts both into the wheel.
    """
    here = Path(__file__).parent
    installed = here / name
    return installed if installed.is_dir() else here.parent.parent / name
