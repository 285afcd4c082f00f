"""An exporter: the weights as PyTorch saves them, masked and rounded."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import nn

from lightning_compress.export.exporter import Exporter, ExportReport
from lightning_compress.export.whole_file import write_whole
from lightning_compress.surgery.structure import network
from lightning_compress.surgery.transforms import bake


@final
@dataclass(frozen=True)
class StateDict(Exporter):
    """Writes ``acme.pt``."""

    kind: ClassVar[str] = "acme_state_dict"
    file_name: ClassVar[str] = "acme.pt"

    def export(self, module: nn.Module, path: str | Path, example: Any) -> ExportReport:
        content = io.BytesIO()
        torch.save(bake(copy.deepcopy(network(module))).state_dict(), content)
        write_whole(Path(path), content.getvalue())
        return ExportReport(Path(path), len(content.getvalue()), notes=("activations are in floating point",))
