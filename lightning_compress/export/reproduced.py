"""Check that what is about to be packed gives the outputs of the network that it was made from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError
from lightning_compress.export.header import Description
from lightning_compress.export.load import receive
from lightning_compress.surgery import measure, transforms
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.inputs import small
from lightning_compress.surgery.structure import KEY
from lightning_compress.surgery.tensors import tensors_in

LARGEST_ERROR = 1e-2  # of the norm of an output; folding a batch norm changes the last digits alone


def check_outputs(
    net: nn.Module, example: Any, path: Path, tensors: Mapping[str, Tensor], described: Description
) -> None:
    """Raise unless a network that receives what is packed gives the same outputs.

    Inputs of layers are not rounded on either side: a value at the edge of two levels would fall to either.

    Args:
        net: that is saved; it is not changed.
        example: one input batch.
        path: of the file, for messages.
        tensors: that are to be written.
        described: what is to be said of them.

    Raises:
        CompressError: an output differs.
    """
    original = transforms.bake(clone(net))
    original.__dict__.pop(f"_{KEY}", None)
    received, example = copy.deepcopy(original), small(example)
    receive(path, received, tensors, described, dequantize=True)
    dtype = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
    largest = max(LARGEST_ERROR, *(16 * torch.finfo(each).eps for each in (dtype, tensors["floats"].dtype)))
    expected, again, found = (_outputs(each, example) for each in (original, original, received))
    for before, repeated, after in zip(expected, again, found, strict=True):
        bound = largest * before.norm() + (before - repeated).norm()
        if not (error := (after - before).norm()) <= bound and before.isfinite().all():
            raise CompressError(
                f"save: what is packed does not give the outputs of this {type(net).__name__}: they differ by "
                f"{float(error / before.norm().clamp_min(1e-30)):.2g} of their size. A forward pass that depends on "
                f"more than parameters and saved buffers cannot be packed; if yours does not, please report this"
            )


def _outputs(net: nn.Module, example: Any) -> list[Tensor]:
    """Return the outputs of floating point, the same random numbers being drawn each time."""
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    with torch.random.fork_rng([device] if device.type == "cuda" else []), measure.evaluating(net):
        torch.manual_seed(0)
        outputs = tensors_in(measure.forward(net, example))
        return [value.double() for value in outputs if value.is_floating_point()]
