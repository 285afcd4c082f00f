"""Figures of a run in the runtimes that its exporters write for: bytes and latency, of both networks."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lightning import LightningModule

from lightning_compress.core.errors import CompressError
from lightning_compress.export.exporter import Exporter, ExportReport
from lightning_compress.export.load import load
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.figures import Figure

Pair = tuple[float, float]


def deployed_figures(
    exporters: Mapping[str, Exporter], exports: Mapping[str, ExportReport], packed: Path, run: RunContext
) -> dict[Figure, Pair]:
    """Return figure -> the value of the dense network in float32, and that of the compressed one.

    The latencies of a runtime are up to two: of the compressed network in float32, and as it is deployed, where that is
    in integers. They are measured on one thread, one sample at a time, as the least CPU time.

    Args:
        exporters: name -> exporter; those whose files run in no other runtime have no figures.
        exports: what they wrote of the compressed network.
        packed: the packed file.
        run: what the stages shared.
    """
    found: dict[Figure, Pair] = {}
    for name, exporter in exporters.items():
        deployed = exports[name].deployed
        if deployed is None:
            continue
        dense = _written(exporter, run.dense, run)
        if dense is None or dense.deployed is None:
            continue
        found[Figure(f"{name}_bytes", exporter.file_name, "bytes")] = dense.bytes, exports[name].bytes
        before, after = dense.deployed.milliseconds, deployed.milliseconds
        if before is None or after is None:
            continue
        kind = "int8" if deployed.integer_kernels else "float32"
        found[_latency(name, kind, deployed.runtime)] = before, after
        if deployed.integer_kernels:
            plain = _written(exporter, load(packed, copy.deepcopy(run.dense), dequantize=True), run)
            if plain is not None and plain.deployed is not None and plain.deployed.milliseconds is not None:
                found[_latency(name, "float32", deployed.runtime)] = before, plain.deployed.milliseconds
    return found


def _latency(name: str, kind: str, runtime: str) -> Figure:
    return Figure(f"{name}_{kind}_ms", f"latency in {kind}, {runtime}", "ms", digits=3, measured=True)


def _written(exporter: Exporter, module: LightningModule, run: RunContext) -> ExportReport | None:
    """Return the report on a network in float32; None where the format cannot hold it."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return exporter.for_float32().export(module, Path(folder) / exporter.file_name, run.example)
        except CompressError:
            return None
