"""Read torch-pruning's internals: how an edge of its graph changes positions, as functions of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch_pruning.dependency import index_mapping as mappings

Arrays = tuple[np.ndarray, np.ndarray]


def _flatten(mapping: Any, roots: np.ndarray, positions: np.ndarray) -> Arrays:
    stride = mapping._stride
    if mapping.reverse:
        return roots, positions // stride
    inner = np.arange(stride, dtype=np.int64)
    return roots.repeat(stride), (positions[:, None] * stride + inner).reshape(-1)


def _concat(mapping: Any, roots: np.ndarray, positions: np.ndarray) -> Arrays:
    start, end = mapping.offset
    return _part(roots, positions, start, end) if mapping.reverse else (roots, positions + start)


def _split(mapping: Any, roots: np.ndarray, positions: np.ndarray) -> Arrays:
    start, end = mapping.offset
    return (roots, positions + start) if mapping.reverse else _part(roots, positions, start, end)


def _part(roots: np.ndarray, positions: np.ndarray, start: int, end: int) -> Arrays:
    inside = (positions >= start) & (positions < end)
    return roots[inside], positions[inside] - start


def _slice(mapping: Any, roots: np.ndarray, positions: np.ndarray) -> Arrays:
    if mapping.reverse:
        return roots, positions * mapping.step + mapping.start
    roots, positions = _part(roots, positions, mapping.start, mapping.end)
    taken = positions % mapping.step == 0
    return roots[taken], positions[taken] // mapping.step


MAPPINGS: Mapping[type, Callable[[Any, np.ndarray, np.ndarray], Arrays]] = {
    mappings._FlattenIndexMapping: _flatten,
    mappings._ConcatIndexMapping: _concat,
    mappings._SplitIndexMapping: _split,
    mappings._SliceIndexMapping: _slice,
}


def is_followed(mapping: Any) -> bool:
    """Return whether positions can be followed through a mapping; those of an LSTM's gates have no end."""
    return type(mapping) in MAPPINGS and len(getattr(mapping, "offset", (0, 0))) == 2
