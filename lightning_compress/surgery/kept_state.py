"""Steps that leave no trace in the modules that run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.surgery._torch import own_buffers, writes

TABLES = frozenset(vars(nn.Module())) - {"training"}  # of parameters, buffers, children and hooks


@contextmanager
def kept_state(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Put buffers and attributes (numbers, tensors, lists, dicts) of modules back afterwards.

    Running averages, counters and metrics are such. Parameters, children and hooks are left as they are then.

    Args:
        parts: the modules, each without those inside it.
    """
    before = [(table, _snapshot(table)) for part in parts for table in (own_buffers(part), vars(part))]
    try:
        yield
    finally:
        for table, snapshot in before:
            _restore(table, snapshot)


def _snapshot(table: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return name -> a value, and what tells its contents: a copy, for a tensor with the number of its writes."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, value in table.items():
        if name in TABLES:
            continue
        if isinstance(value, Tensor):
            found[name] = value, (writes(value), value.detach().clone())
        else:
            found[name] = value, type(value)(value) if type(value) in (list, dict, set) else None
    return found


@torch.no_grad()
def _restore(table: dict[str, Any], snapshot: dict[str, tuple[Any, Any]]) -> None:
    for name in [name for name in table if name not in TABLES and name not in snapshot]:
        del table[name]
    for name, (value, contents) in snapshot.items():
        table[name] = value
        if isinstance(value, Tensor):
            count, copied = contents
            if writes(value) != count:
                value.copy_(copied)
        elif type(value) is list:
            value[:] = contents
        elif type(value) in (dict, set):
            value.clear()
            value.update(contents)
