"""Find the tensors in what a network returns, or in a batch: nested tuples, lists, mappings, dataclasses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map


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


def map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return a value with other tensors: containers are copied, and what is neither stays.

    Args:
        change: tensor -> what is in its place.
        value: of any kind that :func:`parts_of` or torch's pytrees know.

    >>> map_tensors(Tensor.numel, {"x": Tensor([1.0, 2.0]), "name": "a"})
    {'x': 2, 'name': 'a'}
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, MutableMapping):
        table = copy.copy(value)
        table.update({key: map_tensors(change, part) for key, part in value.items()})
        return table
    if is_dataclass(value) and not isinstance(value, type):
        made = copy.copy(value)
        for field in fields(value):
            object.__setattr__(made, field.name, map_tensors(change, getattr(value, field.name)))  # of frozen ones too
        return made
    if isinstance(value, tuple | list):
        parts = [map_tensors(change, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, value)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    for part in parts_of(value).values():
        yield from _tensors(part)
