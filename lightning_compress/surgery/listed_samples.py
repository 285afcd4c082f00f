"""Tell a network that takes a list of samples, as torchvision's detectors do, from one that takes a list of batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError
from lightning_compress.surgery.tensors import parts_of


def listed(example: Any) -> Sequence[Tensor]:
    """Return the list that holds the first tensor of an example, if it holds nothing but tensors; else nothing.

    Args:
        example: one input batch.
    """
    while parts := list(parts_of(example).values()):
        if isinstance(example, list) and all(isinstance(part, Tensor) for part in parts):
            return example
        example = parts[0]
    return ()


def check_samples(net: nn.Module, example: Any, shapes: Sequence[torch.Size]) -> None:
    """Raise for a network that makes one batch of a list of samples: the first dimension of these counts no samples.

    Args:
        net: for the message.
        example: that it was called with.
        shapes: of what its convolutions read, in turn.

    Raises:
        CompressError: the first one reads one sample for each tensor of a list in the example.
    """
    samples = listed(example)
    if not samples or not shapes or len(samples) != shapes[0][0] or len(samples[0]) == len(samples):
        return  # where the two numbers are the same, so are the samples
    if all(sample.dim() == len(shapes[0]) - 1 for sample in samples):
        raise CompressError(
            f"profile: {type(net).__name__} makes one batch of a list of {len(samples)} samples, of shape "
            f"{' and '.join(str(tuple(sample.shape)) for sample in samples)}, whose first dimension counts no samples; "
            f"put it into a module whose forward takes one tensor x and calls it with list(x)"
        )
