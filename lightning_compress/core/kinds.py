"""Stable names of classes: a file names a class by its ``kind``, never by its Python path, so code may move.

A family is a base class that lists :class:`HasKind` among its bases, such as ``Transform`` or ``Criterion``. Within a
family no two classes have the same kind. Importing a class makes it known; a class that ships with this package and
declares its kind is imported when a file names it.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from lightning_compress.core.errors import CompressError, did_you_mean

PACKAGE = Path(__file__).parents[1]
DECLARED = re.compile(r'^    kind: ClassVar\[str\] = "(\w+)"$', re.MULTILINE)
WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

T = TypeVar("T", bound="HasKind")


class HasKind:
    """A class that files name.

    Attributes:
        kind: name in files, unique within the family; by default the name of the class in snake case. A class whose
            name changes keeps its files readable by declaring the old kind: ``kind: ClassVar[str] = "old_name"``.

    Raises:
        CompressError: at the definition of a class whose kind another class of its family already has.
    """

    kind: ClassVar[str]
    classes_by_kind: ClassVar[dict[str, type]]  # of the family, by kind

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if HasKind in cls.__bases__:
            cls.classes_by_kind = {}
            return
        if cls.__module__.startswith("torch."):  # torch.export makes one for a while, of the same name
            return
        if "kind" not in vars(cls):
            # A class inside a function cannot be imported, so no file outlives it, and its name may be common.
            cls.kind = _path(cls) if "<locals>" in cls.__qualname__ else snake_case(cls.__name__)
        other = cls.classes_by_kind.get(cls.kind)
        if other is not None and _path(other) != _path(cls):  # the same again: a reloaded module, a slotted dataclass
            raise CompressError(
                f"{_path(cls)}: kind {cls.kind!r} is already that of {_path(other)}, and files name a class by its "
                f'kind; declare another one in the class: kind: ClassVar[str] = "..."'
            )
        cls.classes_by_kind[cls.kind] = cls


def class_of(kind: Any, base: type[T]) -> type[T]:
    """Return the subclass of ``base`` of that kind, from this package or imported by the program.

    A file can name no other code to run.

    Args:
        kind: as read from a file.
        base: a family, or one of its classes.

    Raises:
        CompressError: there is none.
    """
    if kind not in base.classes_by_kind:
        for module in _shipped().get(kind, ()):
            import_module(module)
    known = {name: cls for name, cls in base.classes_by_kind.items() if issubclass(cls, base)}
    if kind not in known:
        raise CompressError(
            f"the {snake_case(base.__name__).replace('_', ' ')} {kind!r} is not known here{did_you_mean(kind, known)}; "
            f"import the package that defines it first"
        )
    return known[kind]


def classes_of(family: type[T]) -> list[type[T]]:
    """Return the classes of a family that ship in its own top folder of this package, or were imported."""
    folder = ".".join(family.__module__.split(".")[:2])
    for module in {module for modules in _shipped().values() for module in modules}:
        if module.startswith(f"{folder}."):
            import_module(module)
    return list(family.classes_by_kind.values())


def snake_case(name: str) -> str:
    """Return the name of a class in snake case.

    >>> snake_case("LSQActivation"), snake_case("NOfM"), snake_case("Tucker2")
    ('lsq_activation', 'n_of_m', 'tucker2')
    """
    return WORD_START.sub("_", name).lower()


@cache
def _shipped() -> dict[str, tuple[str, ...]]:
    """Return the modules of this package that declare each kind, found without importing them."""
    found: dict[str, tuple[str, ...]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        module = ".".join((PACKAGE.name, *file.relative_to(PACKAGE).with_suffix("").parts))
        for kind in DECLARED.findall(file.read_text(encoding="utf-8")):
            found[kind] = (*found.get(kind, ()), module)
    return found


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
