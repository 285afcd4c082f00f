"""What a search depends on, as plain types, and in which settings two such descriptions differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from reprlib import Repr
from typing import Any

NOT_SET = object()
SHOWN = 6  # differences that a message names

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The settings that differ, each with both values, as one sentence part; empty when none does.

    >>> difference({"seed": 0, "searcher": {"sigma": 0.5}}, {"searcher": {"sigma": 0.4}})
    'seed was 0, now it is not set; searcher.sigma was 0.5, now it is 0.4'
    """
    found = list(_differing("", old, new))
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "; ".join([f"{name} was {_shown(was)}, now it is {_shown(now)}" for name, was, now in found[:SHOWN]] + more)


def _differing(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            yield from _differing(f"{name}.{key}" if name else key, old.get(key, NOT_SET), new.get(key, NOT_SET))
    elif isinstance(old, list) and isinstance(new, list) and _rows(old) and len(old) == len(new):
        for i, (was, now) in enumerate(zip(old, new, strict=True)):
            yield from _differing(f"{name}[{i}]", was, now)
    elif old != new:
        yield name, old, new


def _rows(values: Sequence[Any]) -> bool:
    """Whether a list is a table, of which single rows are worth naming."""
    return any(isinstance(value, (list, Mapping)) for value in values)


def _shown(value: Any) -> str:
    return "not set" if value is NOT_SET else _SHORT.repr(value)
