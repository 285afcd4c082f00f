"""JSON from files that may be damaged or hostile: finite numbers, no key twice, no number that cannot be a size."""

from __future__ import annotations

import json
from math import isfinite
from typing import Any

LARGEST = 1 << 53  # beyond it a number of JSON need not be the one that was written


def loads(text: bytes) -> Any:
    """Return plain types.

    Raises:
        ValueError: it is no JSON, or breaks one of the rules above.
    """
    return json.loads(
        text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_integer
    )  # fmt: skip


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no finite number")


def _float(text: str) -> float:
    value = float(text)
    return value if isfinite(value) else _constant(text)


def _integer(text: str) -> int:
    value = int(text)
    if abs(value) > LARGEST:
        raise ValueError(f"{text[:30]} is too large")
    return value
