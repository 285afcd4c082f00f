"""The classes that a file may name: those of a kind that this package ships, or that the program has imported."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TypeVar

from lightning_compress.core.errors import CompressError, did_you_mean

T = TypeVar("T")


def known_class(path: str, base: type[T]) -> type[T]:
    """The sub-class of ``base`` of that name, which this package ships or the program has imported.

    Raises:
        CompressError: there is none.
    """
    module = path.rpartition(".")[0]
    if module.startswith("lightning_compress."):
        import_module(module)
    known = {f"{cls.__module__}.{cls.__qualname__}": cls for cls in _subclasses(base)}
    if path not in known:
        raise CompressError(
            f"the saved network uses the {base.__name__.lower()} {path!r}, which is not known here"
            f"{did_you_mean(path, known)}; import the package that defines it first"
        )
    return known[path]


def _subclasses(cls: type) -> Iterator[type]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)
