"""Lower a torch network to ExecuTorch with XNNPACK, and run the program. The only file that knows ``executorch``."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError, first_line
from lightning_compress.export.least_time import least_milliseconds
from lightning_compress.export.standard_streams import standard_streams_in

DELEGATE = "executorch_call_delegate"
NOT_INSTALLED = 'export: .pte files need executorch; install it with pip install "lightning-compress[executorch]"'
WEIGHTED = ("convolution", "addmm", "linear", "mm", "bmm")


@dataclass(frozen=True)
class Program:
    """A program of ExecuTorch.

    Attributes:
        content: bytes of the .pte file.
        parts: number of XNNPACK's parts.
        outside: operations that XNNPACK left to slower kernels.
    """

    content: bytes
    parts: int
    outside: tuple[str, ...]

    @property
    def left(self) -> tuple[str, ...]:
        """The convolutions and matrix products outside of XNNPACK."""
        return tuple(name for name in self.outside if name.partition(".")[0] in WEIGHTED)


def lowered(net: nn.Module, x: Tensor) -> Program:
    """Return the program of a network for batches of the shape of an example.

    Args:
        net: a plain network, or that of a graph.
        x: one input batch.

    Raises:
        CompressError: executorch is not installed, or cannot take the network.
    """
    try:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    except ImportError as error:
        raise CompressError(NOT_INSTALLED) from error
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.export.export(net, (x,))
            edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
            names = [_name(node) for node in edge.exported_program().graph.nodes if node.op == "call_function"]
            content = edge.to_executorch().buffer
    except Exception as error:
        raise CompressError(f"export: ExecuTorch cannot take {type(net).__name__}: {first_line(error)}") from error
    return Program(content, names.count(DELEGATE), tuple(n for n in names if n not in (DELEGATE, "getitem")))


def _name(node: torch.fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target)).removeprefix("aten.")


class Runtime:
    """A program in ExecuTorch, one thread.

    Args:
        content: bytes of the .pte file.

    Attributes:
        version: of the runtime.
    """

    def __init__(self, content: bytes) -> None:
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
        from executorch.runtime import Runtime as Loaded

        self.version = f"ExecuTorch {metadata.version('executorch')}"
        with standard_streams_in():  # its first call writes what it finds out about the processor
            _unsafe_reset_threadpool(1)
            self.method: Any = Loaded.get().load_program(content).load_method("forward")
            self.batch: int = self.method.metadata.input_tensor_meta(0).sizes()[0]

    def run(self, x: Tensor) -> Tensor:
        """Return the output for samples, whose number is a multiple of the file's batch."""
        return torch.cat([self.method.execute([part.contiguous()])[0].clone() for part in x.split(self.batch)])

    def milliseconds(self, x: Tensor) -> float:
        """Return the least CPU time of a run on one batch."""
        x = x.contiguous()
        return least_milliseconds(lambda: self.method.execute([x]))
