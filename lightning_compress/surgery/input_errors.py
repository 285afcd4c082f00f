"""Errors of a network's own forward pass on an example, as a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lightning_compress.core.errors import CompressError, first_line
from lightning_compress.surgery.tensors import tensors_in

LONGEST = 200  # characters of the network's own message


@contextmanager
def told_input_errors(net: nn.Module, example: Any) -> Iterator[None]:
    """Raise an error of the forward pass inside as a sentence on the network and the example.

    Args:
        net: that runs inside.
        example: the input batch that it runs on.

    Raises:
        CompressError: the network does not run on it.
    """
    try:
        yield
    except (CompressError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the network's own forward raises
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in tensors_in(example))
        which = f"of shape {shapes}" if shapes else "which holds no tensor"
        raise CompressError(
            f"{type(net).__name__} does not run on the example, {which} ({first_line(error)[:LONGEST]}); give it one "
            f"input batch that its forward takes"
        ) from error
