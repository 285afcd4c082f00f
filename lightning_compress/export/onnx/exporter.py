"""The .onnx file: for ONNX Runtime, and for what else reads ONNX, such as OpenVINO."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.export import compared
from lightning_compress.export.deployable import Deployable, deployable
from lightning_compress.export.exporter import Deployed, Exporter, ExportReport
from lightning_compress.export.integer.completion import BITS
from lightning_compress.export.integer.graph import ConvTranspose, Graph
from lightning_compress.export.integer.rounding.floating import FloatRounding
from lightning_compress.export.onnx.exact_sums import EXACT_SUMS, LARGEST_EXACT
from lightning_compress.export.onnx.session import Session
from lightning_compress.export.onnx.write import onnx_bytes, torch_onnx_bytes
from lightning_compress.export.whole_file import write_whole


@dataclass(frozen=True)
class Onnx(Exporter):
    """Write an .onnx file (opset 21) with float32 inputs and outputs and a free batch.

    Weights of any width are stored as int8, biases as int32. A network without integer kernels, or with an operation
    that has none here, is written in floating point, and the report says so.

    Args:
        calibration: batches from which all missing grids are set; None leaves a float network in floating point.
        weight_bits: of weights that calibration quantizes; 7 are exact and fast on x86 processors without VNNI too.
    """

    file_name: ClassVar[str] = "model.onnx"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "onnxscript")

    calibration: Iterable[Any] | None = None
    weight_bits: int = BITS

    @override
    def for_float32(self) -> Onnx:
        return Onnx()

    def export(self, module: nn.Module, path: str | Path, example: Any) -> ExportReport:
        """Write the file, see :class:`~lightning_compress.export.exporter.Exporter`.

        Without onnxruntime the report has no parity.
        """
        path, x = Path(path), compared.first_samples(example)
        expected = compared.expected_of(module, x)
        found = deployable(module, x, self.calibration, self.weight_bits)
        content = torch_onnx_bytes(found.reference, x) if found.graph is None else onnx_bytes(found.graph)
        if find_spec("onnxruntime") is None:
            note = 'not run here, for onnxruntime is not installed: pip install "lightning-compress[onnx]"'
            report = ExportReport(path, len(content), notes=(*found.notes, note))
        else:
            report = self._compared(ExportReport(path, len(content), notes=found.notes), found, content, x, expected)
        write_whole(path, content)
        return report

    def _compared(
        self, report: ExportReport, found: Deployable, content: bytes, x: Tensor, expected: Tensor
    ) -> ExportReport:
        session = Session(content)
        outputs = compared.checked_outputs(found, x, expected, lambda: session.run(x), report.path)
        integer = found.graph is not None and found.graph.integer
        notes = report.notes
        if found.graph is not None and integer:
            transposed = [op.output for op in found.graph.weighted if isinstance(op, ConvTranspose)]
            left = [name for name in session.floating if name not in transposed]
            if left:
                raise CompressError(
                    f"export: {session.version} runs {len(left)} layers in floating point that were to run in "
                    f"integers: {left}; this is a fault of the file, please report it"
                )
            notes = (*notes, *_warnings(found.graph, session.version, transposed))
        floating = tuple(op.module for op in found.graph.weighted) if found.graph and not integer else session.floating
        off = compared.off_emulation(found.graph, x, outputs, FloatRounding())
        deployed = Deployed(
            session.version, compared.machine(), len(gzip.compress(content, mtime=0)), session.integer,
            floating, *off, compared.slope(expected, outputs),
            session.milliseconds(x[:1]), found.graph.peak_bytes() if found.graph else None,
        )  # fmt: skip
        return ExportReport(report.path, report.bytes, compared.parity(expected, outputs), notes, deployed)


def _warnings(graph: Graph, runtime: str, transposed: list[str]) -> list[str]:
    """Return what the user must know of the runtime, as sentences."""
    found = []
    if transposed:
        found.append(f"{runtime} has no integer kernel for transposed convolutions: {transposed} run in floating point")
    if any(np.abs(operation.weight.astype(np.int16)).max(initial=0) > LARGEST_EXACT for operation in graph.weighted):
        found.append(
            f"on x86 processors without VNNI set the session option {EXACT_SUMS[0]} to {EXACT_SUMS[1]}: {runtime} adds "
            f"products in 16 bits there otherwise, which saturate; with VNNI leave it, for it may halve the speed"
        )
    return found
