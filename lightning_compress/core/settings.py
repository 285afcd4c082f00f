"""The settings of an object as plain types, equal in any process for objects that do the same.

Searches and trainings are resumed only under the settings that they were begun with. A ``repr`` will not do to compare
these: of many objects it holds an address, which each process has its own of. Nor will Python paths of our classes,
which may move: a class is named by its ``kind``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from functools import partial
from math import isfinite
from pathlib import Path
from reprlib import Repr
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn

from lightning_compress.core.digest import digest_of
from lightning_compress.core.kinds import HasKind

NAMED = (type, FunctionType, BuiltinFunctionType, MethodType)
LEAVES = (Tensor, np.ndarray, Path, Enum, *NAMED)  # of those with a __dict__
OURS = __name__.partition(".")[0]
NOT_SET = object()
SHOWN = 6  # differences that a message names

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def settings_of(value: Any) -> Any:
    """Return numbers, texts, lists and dicts that describe a value.

    An object is its class and its public attributes: what it keeps for itself (``_name``) is no setting. A partial is
    what it makes and its arguments, a tensor or module a digest of its numbers. Classes and functions of this package,
    and all classes that have a kind, are named without their Python path.

    >>> settings_of(partial(dict, bits=4))
    {'class': 'builtins.dict', 'bits': 4}
    """
    return _plain(value, frozenset())


def class_name(make: Callable[..., Any]) -> str:
    """Return the name of the class that a partial makes, or of the class itself.

    >>> class_name(partial(partial(dict, bits=4), signed=True))
    'dict'
    """
    while isinstance(make, partial):
        make = make.func
    return make.__name__


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the settings that differ, each with both values, as part of a sentence; empty if none does.

    >>> difference({"seed": 0, "searcher": {"sigma": 0.5}}, {"searcher": {"sigma": 0.4}})
    'seed was 0, now it is not set; searcher.sigma was 0.5, now it is 0.4'
    """
    found = list(_differing("", old, new))
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "; ".join([f"{name} was {_shown(was)}, now it is {_shown(now)}" for name, was, now in found[:SHOWN]] + more)


def _plain(value: Any, above: frozenset[int]) -> Any:
    """Return a value as plain types; inside an object of the ids ``above``, that object itself is named only."""
    if id(value) in above:
        return _name(type(value))
    inside = partial(_plain, above=above | {id(value)})
    if isinstance(value, Mapping):
        return {str(key): inside(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [inside(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(inside, value), key=repr)
    if isinstance(value, partial):
        made = inside(value.func) if isinstance(value.func, partial) else _named(value.func)  # of Hydra's
        unnamed = {"arguments": inside(value.args)} if value.args else {}
        return {**made, **unnamed, **inside(value.keywords)}
    if isinstance(value, nn.Module):
        return {**_named(type(value)), "weights": digest_of(value.state_dict())}
    if isinstance(value, LEAVES) or not hasattr(value, "__dict__"):
        return _leaf(value)
    return {**_named(type(value)), **inside({k: v for k, v in vars(value).items() if not k.startswith("_")})}


def _leaf(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else repr(value)  # a NaN would differ from itself
    if isinstance(value, np.generic):
        return _leaf(value.item())
    if isinstance(value, (Tensor, np.ndarray)):
        return digest_of(value)
    if isinstance(value, NAMED):
        return _name(value)
    text = str(value)
    return _name(type(value)) if " at 0x" in text else text


def _named(value: Any) -> dict[str, str]:
    return {"kind" if _has_kind(value) else "class": _name(value)}


def _name(value: Any) -> str:
    """Return the stable name of a class or function; the path of one that belongs to others and has no kind."""
    if _has_kind(value):
        return value.kind
    return value.__qualname__ if value.__module__.partition(".")[0] == OURS else _path(value)


def _has_kind(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, HasKind) and hasattr(value, "kind")


def _path(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


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
    """Return whether a list is a table, of which single rows are worth naming."""
    return any(isinstance(value, (list, Mapping)) for value in values)


def _shown(value: Any) -> str:
    return "not set" if value is NOT_SET else _SHORT.repr(value)
