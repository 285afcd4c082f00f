"""The settings of an object as plain types, equal in any process for objects that do the same.

Searches and trainings are resumed only under the settings that they were begun with. A ``repr`` will not do to compare
these: of many objects it holds an address, which each process has its own of.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import partial
from math import isfinite
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn

from lightning_compress.core.digest import digest_of

NAMED = (type, FunctionType, BuiltinFunctionType, MethodType)
LEAVES = (Tensor, np.ndarray, Path, Enum, *NAMED)  # of those with a __dict__


def settings_of(value: Any) -> Any:
    """Numbers, texts, lists and dicts that say what a value is.

    An object is its class and its public attributes: what it keeps for itself (``_name``) is no setting. A partial is
    what it makes and its arguments, a tensor or module a digest of its numbers.

    >>> settings_of(partial(dict, bits=4))
    {'class': 'builtins.dict', 'bits': 4}
    """
    return _plain(value, frozenset())


def _plain(value: Any, above: frozenset[int]) -> Any:
    """Args: ``above``: ids of the objects that the value is inside of; an object inside itself is named only."""
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
        made = inside(value.func) if isinstance(value.func, partial) else {"class": _name(value.func)}  # of Hydra's
        unnamed = {"arguments": inside(value.args)} if value.args else {}
        return {**made, **unnamed, **inside(value.keywords)}
    if isinstance(value, nn.Module):
        return {"class": _name(type(value)), "weights": digest_of(value.state_dict())}
    if isinstance(value, LEAVES) or not hasattr(value, "__dict__"):
        return _leaf(value)
    return {"class": _name(type(value)), **inside({k: v for k, v in vars(value).items() if not k.startswith("_")})}


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


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"
