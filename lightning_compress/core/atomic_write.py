"""Files that are there as a whole or not at all, whenever the process that writes them is killed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from glob import escape
from itertools import count
from pathlib import Path

SUFFIX = ".part"
_numbers = count()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` at the end; after an error ``path`` is as it was.

    Several processes and threads may write the same file at a time; the last to end wins. What killed ones of this
    machine left of the same file is deleted.
    """
    _remove_stale(path.parent.glob(f".{escape(path.name)}.*{SUFFIX}"))
    part = path.with_name(f".{path.name}.{_host()}.{os.getpid()}.{next(_numbers)}{SUFFIX}")
    try:
        yield part
        with part.open("rb+") as written:
            os.fsync(written.fileno())  # its bytes before its name: a machine may lose power too
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def remove_stale_parts(folder: Path) -> None:
    """Delete half-written files of killed processes of this machine in a folder and below it."""
    _remove_stale(folder.rglob(f".*{SUFFIX}"))


def _remove_stale(parts: Iterable[Path]) -> None:
    for part in parts:
        writer, _, process = part.name.rsplit(".", 2)[0].rpartition(".")
        if process.isdigit() and writer.endswith(f".{_host()}") and not _is_alive(int(process)):
            part.unlink(missing_ok=True)


def _host() -> str:
    return socket.gethostname().replace(".", "_").replace("/", "_")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True
