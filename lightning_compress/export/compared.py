"""Compare the outputs of a runtime with those of the network that was exported."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError
from lightning_compress.export.exporter import Parity
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.inputs import small
from lightning_compress.surgery.measure import evaluating, forward
from lightning_compress.surgery.structure import network

SAMPLES = 256
TOKENS = (torch.int32, torch.int64)


def first_samples(example: Any) -> Tensor:
    """Return at most 256 samples of an example, on the CPU: token ids as they are, all else in fp32.

    Raises:
        CompressError: it is no tensor.
    """
    if not isinstance(example, Tensor):
        raise CompressError(
            f"export: example_input must be one tensor with the batch first, got {type(example).__name__}; networks "
            f"with several inputs are not supported by this format"
        )
    found = small(example, SAMPLES).detach().cpu()
    return found if found.dtype in TOKENS else found.float()


def outputs_of(net: nn.Module, x: Tensor) -> Tensor:
    """Return the outputs of a network in eval mode.

    Raises:
        CompressError: the network does not accept the example, or returns something else than a tensor.
    """
    try:
        with evaluating(net):
            y = forward(net, x)
    except (RuntimeError, TypeError, ValueError) as error:
        raise CompressError(
            f"export: {type(net).__name__} does not accept an example of shape {tuple(x.shape)}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if not isinstance(y, Tensor):
        raise CompressError(f"export: {type(net).__name__} returns a {type(y).__name__}; one tensor is supported")
    return y.float()


def check_accepts(module: nn.Module, x: Tensor) -> None:
    """Raise unless a network accepts an example; a copy is run, for the first batch may set scales.

    Raises:
        CompressError: naming the shape.
    """
    outputs_of(clone(network(module)).cpu(), x)


def parity(expected: Tensor, found: Tensor) -> Parity:
    """Return how two outputs of shape ``(batch, ...)`` compare; the largest output is over dimension 1."""
    error = (expected - found).abs()
    flat = [y.flatten(1) for y in (expected, found)]
    agreement = (flat[0].argmax(1) == flat[1].argmax(1)).float().mean()
    return Parity(len(expected), float(agreement), float(error.mean()), float(error.max()))


def slope(expected: Tensor, found: Tensor) -> float:
    """Return the slope of the least-squares line through the origin, of found outputs on expected ones."""
    x, y = expected.double().flatten(), found.double().flatten()
    return float((x @ y) / (x @ x).clamp_min(torch.finfo(torch.float64).tiny))


def machine() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return name or platform.processor() or platform.machine()
