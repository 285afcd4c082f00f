"""``export``: a network as a file for the runtime that will serve it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning import LightningModule
from torch import nn

from lightning_compress.core.errors import CompressError
from lightning_compress.export.executorch.exporter import ExecuTorch
from lightning_compress.export.exporter import Exporter, ExportReport
from lightning_compress.export.load import load
from lightning_compress.export.onnx.exporter import Onnx
from lightning_compress.export.tflite.exporter import TFLite

FORMATS: tuple[type[Onnx | TFLite | ExecuTorch], ...] = (Onnx, TFLite, ExecuTorch)


def export(
    source: nn.Module | str | Path,
    path: str | Path,
    example_input: Any = None,
    exporter: Exporter | None = None,
    calibration: Iterable[Any] | None = None,
    network: nn.Module | None = None,
) -> ExportReport:
    """Write a network for another runtime, and compare what that runtime computes with the network.

    Args:
        source: a LightningModule or a network, dense or compressed, which is not changed; or a packed file.
        path: of the file to write. Its ending says the format, unless ``exporter`` does: ``.onnx``, ``.tflite``,
            ``.pte``.
        example_input: one input batch, of which up to 256 samples are compared; None takes the module's
            ``example_input_array``.
        exporter: with its settings, such as ``TFLite(int4=True)``.
        calibration: batches from which the missing grids of an integer network are set (some hundred samples); None
            leaves a network that was not quantized in floating point.
        network: where ``source`` is a file, a fresh network of its architecture.

    Raises:
        CompressError: the ending is not known, the network has something that the format cannot hold, a package is
            missing, the file does not give the outputs of the network, or it cannot be written.

    >>> export(module, "net.tflite", example_input=images)  # doctest: +SKIP
    """
    path = Path(path)
    if not isinstance(source, nn.Module):
        if network is None:
            raise CompressError(f"export: {str(source)!r} is a file; pass network=, a fresh network to load it into")
        source = load(source, network)
    if example_input is None and isinstance(source, LightningModule):
        example_input = source.example_input_array
    if example_input is None:
        raise CompressError("export: pass example_input=, one batch that the network accepts")
    if exporter is None:
        exporter = _format_of(path)(calibration=calibration)
    elif calibration is not None:
        raise CompressError(f"export: give calibration to the exporter: {type(exporter).__name__}(calibration=...)")
    return exporter.export(source, path, example_input)


def _format_of(path: Path) -> type[Onnx | TFLite | ExecuTorch]:
    for kind in FORMATS:
        if Path(kind.file_name).suffix == path.suffix:
            return kind
    known = [Path(kind.file_name).suffix for kind in FORMATS]
    raise CompressError(f"export: no format is known for {path.name!r}; end it with one of {known}, or pass exporter=")
