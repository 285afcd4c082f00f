"""Tell errors of memory from mistakes."""

from __future__ import annotations

import errno

import torch

WORDS = (
    *("DefaultCPUAllocator", "not enough memory", "out of memory", "Cannot allocate memory"),  # CPUs, accelerators
    *("bad_alloc", "ALLOC_FAILED"),  # C++, libraries of CUDA
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out; torch's allocator on the CPU raises a plain RuntimeError."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)
