"""Run .onnx files in ONNX Runtime, and see which kernels it chose."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_compress.core.errors import CompressError, first_line
from lightning_compress.export.installed import installed_version
from lightning_compress.export.least_time import least_milliseconds
from lightning_compress.export.onnx.builder import onnx_package
from lightning_compress.export.onnx.exact_sums import EXACT_SUMS, one_thread, saturates

INTEGER = ("QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger")
FLOATING = ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


def runtime_version() -> str:
    """Return the name of the runtime with its version.

    Raises:
        CompressError: it is not installed.
    """
    return installed_version("ONNX Runtime", "onnxruntime", "onnx")


class Session:
    """A file in ONNX Runtime on one thread, with exact integer sums on every processor.

    Attributes:
        kernels: how many nodes of each type the optimized graph has.
        version: of the runtime.

    Raises:
        CompressError: onnxruntime is not installed, or refuses the file.
    """

    def __init__(self, content: bytes) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise CompressError(
                'export: running .onnx files needs onnxruntime; pip install "lightning-compress[onnx]"'
            ) from error
        options = one_thread()
        if saturates():
            options.add_session_config_entry(*EXACT_SUMS)
        self.version = f"ONNX Runtime {onnxruntime.__version__}"
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            options.optimized_model_filepath = str(optimized)
            try:
                self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            except Exception as error:
                raise CompressError(f"export: {self.version} refuses the file: {first_line(error)}") from error
            model = onnx_package().load(optimized)
        self.kernels: Counter[str] = Counter(node.op_type for node in model.graph.node)
        self.names: dict[str, list[str]] = {kind: [] for kind in FLOATING}
        for node in model.graph.node:
            if node.op_type in FLOATING:
                self.names[node.op_type].append(node.output[0].partition("/")[0])

    @property
    def integer(self) -> int:
        """Number of convolutions and matrix products in integers."""
        return sum(self.kernels[kind] for kind in INTEGER)

    @property
    def floating(self) -> tuple[str, ...]:
        """Names of the convolutions and matrix products in floating point."""
        return tuple(name for names in self.names.values() for name in names)

    def run(self, x: Tensor) -> Tensor:
        """Return the output for a batch.

        Raises:
            CompressError: the runtime stops at an operation, such as an LSTM with ``proj_size``.
        """
        try:
            (y,) = self.session.run(None, self._feed(x))
        except Exception as error:  # onnxruntime has no base class of its own
            reason = first_line(error).rpartition(" : ")[2]
            raise CompressError(
                f"export: {self.version} cannot run the file: {reason} Replace that operation, or deploy the packed "
                f"file by load"
            ) from error
        return torch.from_numpy(y)

    def milliseconds(self, x: Tensor, runs: int = 200, seconds: float = 0.1) -> float:
        """Return the least CPU time of a run.

        Args:
            x: one batch.
            runs: at least; a small network runs more often, for
            seconds: of CPU time at least.
        """
        return least_milliseconds(self.call(x), runs, seconds)

    def call(self, x: Tensor) -> Callable[[], object]:
        """Return what runs the file once on a batch."""
        feed = self._feed(x)
        return lambda: self.session.run(None, feed)

    def _feed(self, x: Tensor) -> dict[str, Any]:
        return {self.session.get_inputs()[0].name: np.ascontiguousarray(x.numpy())}
