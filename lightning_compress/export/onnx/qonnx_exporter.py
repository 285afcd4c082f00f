"""QONNX: an .onnx file with Quant nodes of any width, for FINN and hls4ml."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from lightning_compress.core.errors import CompressError
from lightning_compress.export import compared
from lightning_compress.export.deployable import deployable
from lightning_compress.export.exporter import Exporter, ExportReport
from lightning_compress.export.onnx.qonnx_builder import QonnxBuilder
from lightning_compress.export.onnx.qonnx_reference import run_qonnx
from lightning_compress.export.onnx.write import written
from lightning_compress.export.whole_file import write_whole

SAMPLES = 8  # that are compared


@dataclass(frozen=True)
class Qonnx(Exporter):
    """Write an .onnx file in which every weight and activation has a Quant node with its own number of bits.

    Weights are float values on their grid and biases float, as compilers for FPGAs expect. The report's parity is that
    of ONNX's reference implementation on a few samples; no runtime here reads the file.

    Args:
        calibration: batches from which all missing grids are set.
    """

    file_name: ClassVar[str] = "model.qonnx.onnx"
    packages: ClassVar[tuple[str, ...]] = ("onnx",)

    calibration: Iterable[Any] | None = None

    def export(self, module: nn.Module, path: str | Path, example: Any) -> ExportReport:
        """Write the file, see :class:`~lightning_compress.export.exporter.Exporter`.

        Raises:
            CompressError: the network has something without a form.
        """
        path, x = Path(path), compared.first_samples(example)
        expected = compared.expected_of(module, x[:SAMPLES])
        found = deployable(module, x, self.calibration)
        if found.graph is None:
            raise CompressError(f"export: QONNX files cannot hold this network: {found.reason}")
        content = written(QonnxBuilder(found.graph))
        x = x[:SAMPLES]
        parity = compared.parity(
            expected, compared.checked_outputs(found, x, expected, lambda: run_qonnx(content, x), path)
        )
        write_whole(path, content)
        plain = () if found.graph.integer else ("without Quant nodes, for the network is not quantized throughout",)
        return ExportReport(path, len(content), parity, (*found.notes, *plain))
