"""The policy that a search starts from, kept beside its journal."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from lightning_compress.core.atomic_write import atomic_write
from lightning_compress.search.rl.policy_file import NAME, of_stage
from lightning_compress.search.searchers.searcher import Searcher


def start_name(baseline: str = "") -> str:
    """Return the name of the file with the policy that a stage's search, or a baseline of it, started from."""
    return f"warm_start-{baseline}.safetensors" if baseline else "warm_start.safetensors"


def start_path(make: Callable[..., Searcher]) -> str | Path | None:
    """Return the ``warm_start`` that a partial of a searcher has; None where it has none."""
    return make.keywords.get("warm_start") if isinstance(make, partial) else None


def start_of(make: Callable[..., Searcher], kept: Path) -> dict[str, str]:
    """Return the ``warm_start`` argument of a searcher; empty if it has none.

    Of the folder of a whole run, the policy of the stage of the same name is taken.

    Args:
        make: makes the searcher.
        kept: in the folder of the stage; what :func:`keep_start` left there comes first.
    """
    path = start_path(make)
    if path is None:
        return {}
    return {"warm_start": str(kept if kept.is_file() else of_stage(path, kept.parent.name))}


def keep_start(start: Mapping[str, str], kept: Path) -> None:
    """Copy the policy that a search started from beside its journal, as it may be gone or changed when it goes on."""
    if start and not kept.is_file():
        path = Path(start["warm_start"])
        with atomic_write(kept) as part:
            shutil.copyfile(path / NAME if path.is_dir() else path, part)
