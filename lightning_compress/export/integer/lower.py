"""Make the graph of a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lightning_compress.core.errors import CompressError, first_line
from lightning_compress.export.integer import marked
from lightning_compress.export.integer.graph import Graph
from lightning_compress.export.integer.kernels import KERNELS
from lightning_compress.export.integer.marked import NoIntegerFormError
from lightning_compress.export.integer.merge_padding import merge_padding
from lightning_compress.export.integer.walker import Walker
from lightning_compress.surgery.inputs import small


def lower(module: nn.Module, example: Any, integer: bool = True) -> Graph:
    """Return the graph of a network.

    Args:
        module: a LightningModule or a network; it is not changed.
        example: one input batch, a tensor.
        integer: take weights and activations on their grids; else all in float32, activation quantizers left out.

    Raises:
        NoIntegerFormError: naming the operation and the module that have no kernel, or what is not quantized.
        CompressError: the network cannot be exported by torch.
    """
    net, levels = marked.marked(module)
    if not integer:
        marked.drop_markers(net)
    example = small(example, 1)
    if not isinstance(example, torch.Tensor):
        raise NoIntegerFormError("export: the example must be one tensor; networks with several inputs have no graph")
    try:
        with torch.no_grad():
            program = torch.export.export(net, (example.cpu(),))
    except Exception as error:
        raise CompressError(
            f"export: torch.export cannot trace {type(net).__name__} on an example of shape {tuple(example.shape)}: "
            f"{first_line(error)}"
        ) from error
    return merge_padding(Walker(KERNELS, levels if integer else {}, integer).run(program))
