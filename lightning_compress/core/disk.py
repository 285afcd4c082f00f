"""Say in a sentence that a disk is full, or that a folder may not be written."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_compress.core.errors import CompressError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def told_disk_errors() -> Iterator[None]:
    """Turn what the operating system raises of a full or read-only disk into a :class:`CompressError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL | REFUSED:
            raise
        where = f" {error.filename!r}" if error.filename else " a file of this run"
        remedy = "make room on the disk" if error.errno in FULL else "check the permissions of its folder"
        raise CompressError(
            f"cannot write{where}: {error.strerror}; {remedy}, and give the same command again: it goes on where it was"
        ) from error


def check_writable(folder: Path, setting: str) -> None:
    """Make a folder and raise if nothing can be written to it.

    Args:
        folder: that files will be written to.
        setting: by which the user chooses it, for the message.

    Raises:
        CompressError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # another process may have tried it too
    except OSError as error:
        raise CompressError(f"cannot write to {str(folder)!r}: {error.strerror}; choose another {setting}=") from error
