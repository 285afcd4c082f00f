"""Digest the sources behind a configuration, for what is kept under that configuration.

The sources are the user's: the files of the classes and functions that the configuration names, and of what these
import, except for the standard library and installed packages. Comments and layout do not count.
"""

from __future__ import annotations

import ast
import hashlib
import site
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

from hydra.utils import get_object

OURS = __name__.partition(".")[0]
APPLICATION = f"{OURS}.vision"  # networks and data of the application; all else of ours takes no part in a training
INSTALLED = tuple(
    {
        Path(path).resolve()
        for path in (
            *(sysconfig.get_paths()[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
            *site.getsitepackages(),
            site.getusersitepackages(),
        )
    }
)


def sources_digest(config: Any) -> str:
    """Return 12 hex digits for the sources of all ``_target_`` of a configuration, and of what they import.

    Args:
        config: as plain types.
    """
    found: dict[str, str] = {}
    waiting = [getattr(get_object(target), "__module__", None) or "" for target in _targets(config)]
    while waiting:
        name = waiting.pop()
        if name not in found and (file := _own_file(name)) is not None:
            try:
                tree = ast.parse(file.read_bytes())
            except SyntaxError:  # an optional import, which failed
                continue
            found[name] = ast.dump(tree)
            waiting += _imported(tree, name if file.name == "__init__.py" else name.rpartition(".")[0])
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:12]


def _targets(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        if isinstance(config.get("_target_"), str):
            yield config["_target_"]
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from _targets(value)


def _own_file(name: str) -> Path | None:
    """Return the file of a module; None for what is installed, built in, or no module at all."""
    top = name.partition(".")[0]
    if top == OURS and not f"{name}.".startswith(f"{APPLICATION}."):
        return None
    for each in (top, name):  # the top first: nothing of an installed package is imported here
        try:
            spec = find_spec(each)
        except (ImportError, ValueError):
            return None
        if spec is None or not all(map(_is_own, (spec.origin, *(spec.submodule_search_locations or ())))):
            return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _is_own(place: str | None) -> bool:
    """Return whether a file or folder is not of an installed package; a package without a file has no place."""
    return place is None or (Path(place).exists() and not any(map(Path(place).resolve().is_relative_to, INSTALLED)))


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the modules that may be imported anywhere in a source: ``from a import b`` may mean ``a`` and ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names = [f"{base}{'' if base.endswith('.') else '.'}{alias.name}" for alias in node.names]
            yield from (resolve_name(each, package) for each in (base, *names) if package or not node.level)
