"""A short digest of data: equal for equal values, in any process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def digest_of(value: Any) -> str:
    """Return 16 hex digits that identify numbers, texts, tensors, arrays, and containers of them."""
    found = hashlib.sha256()
    for part in _parts(value):
        found.update(part)
    return found.hexdigest()[:16]


def _parts(value: Any) -> Iterator[bytes]:
    """Yield the bytes to hash; each part begins with its kind and size, so that no two values share them."""
    if isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)} ".encode()
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape} ".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)} ".encode()
        for key, inside in value.items():
            yield from _parts(key)
            yield from _parts(inside)
    elif isinstance(value, (list, tuple)):
        yield f"list {len(value)} ".encode()
        for inside in value:
            yield from _parts(inside)
    elif value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        text = repr(value).encode()
        yield f"{type(value).__name__} {len(text)} ".encode() + text
    else:  # a batch of the user's own class
        yield f"{type(value).__qualname__} ".encode()
        yield from _parts(getattr(value, "__dict__", {}))
