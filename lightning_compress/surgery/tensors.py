"""Find the tensors in what a network returns, or in a batch: nested tuples, lists, mappings, dataclasses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


def parts_of(value: Any) -> dict[str, Any]:
    """Return the direct parts of a value by field, key or index; empty for a tensor or anything else.

    >>> parts_of({"logits": 1, "aux": 2})
    {'logits': 1, 'aux': 2}
    >>> parts_of((1, 2))
    {'0': 1, '1': 2}
    """
    if isinstance(value, Mapping):  # Hugging Face's ModelOutput is one, and a dataclass too
        return {str(key): part for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, tuple | list):
        names = getattr(value, "_fields", None) or [str(i) for i in range(len(value))]
        return dict(zip(names, value, strict=True))
    return {}


def operands(value: Any) -> list[Any]:
    """Return the leaves of what an operation of torch reads or gives, in order: it knows tuples, lists and dicts alone.

    ``tree_leaves`` does the same for containers of any kind, at several times the cost, which counts where every
    operation of a forward pass is watched.

    >>> operands(((1, [2, 3]), {"alpha": 4}))
    [1, 2, 3, 4]
    """
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, tuple | list):
        return [value]
    found: list[Any] = []
    for part in value:
        if isinstance(part, tuple | list | dict):
            found += operands(part)
        else:
            found.append(part)
    return found


def tensors_in(value: Any) -> list[Tensor]:
    """Return all tensors inside a value, in order."""
    return list(_tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    for part in parts_of(value).values():
        yield from _tensors(part)
