"""The packed file: the smallest one, which :func:`~lightning_compress.export.load.load` reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from lightning_compress.export.exporter import Exporter, ExportReport
from lightning_compress.export.save import FIXED_WIDTH, save
from lightning_compress.quantization.coders.coder import Coder


@dataclass(frozen=True)
class Packed(Exporter):
    """Write the packed file.

    Args:
        coder: of the codes of quantized weights.
    """

    file_name: ClassVar[str] = "model.safetensors"
    coder: Coder = FIXED_WIDTH

    def export(self, module: nn.Module, path: str | Path, example: Any) -> ExportReport:
        """Write the file, see :func:`~lightning_compress.export.save.save`."""
        written = save(module, path, example_input=example, coder=self.coder)
        return ExportReport(written, written.stat().st_size)
