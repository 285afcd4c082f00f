"""The .tflite file: for TensorFlow Lite's runtimes on phones (LiteRT) and microcontrollers (TFLite-Micro)."""

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

from lightning_compress.core.costs.tflite_bytes import INT4_BITS
from lightning_compress.core.errors import CompressError
from lightning_compress.export import compared
from lightning_compress.export.deployable import Deployable, deployable
from lightning_compress.export.exporter import Deployed, Exporter, ExportReport
from lightning_compress.export.integer.emulate import to_values
from lightning_compress.export.integer.graph import ConvTranspose, Graph
from lightning_compress.export.integer.marked import NoIntegerFormError
from lightning_compress.export.integer.rounding.double import DoubleRounding
from lightning_compress.export.integer.rounding.litert import LiteRTRounding
from lightning_compress.export.tflite.arena import arena_bytes
from lightning_compress.export.tflite.c_array import c_array
from lightning_compress.export.tflite.engines import LiteRT, TFLiteMicro, from_stored, stored_input
from lightning_compress.export.tflite.operators import in_nibbles
from lightning_compress.export.tflite.write import tflite_bytes
from lightning_compress.export.whole_file import write_whole

WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")


@dataclass(frozen=True)
class TFLite(Exporter):
    """Write a .tflite file with int8 or, where the network is not quantized, float32 inputs and outputs.

    Args:
        int4: store weights of 4 or fewer bits two a byte, for microcontrollers; XNNPACK does not run those.
        header: write the file as a C array beside it too, ``model.h`` for ``model.tflite``.
        calibration: batches from which all missing grids are set; None leaves a float network in floating point.
        flash: the largest file, in bytes; None sets no limit.
        ram: the largest arena of TFLite-Micro, in bytes; where that is not installed, of the activations at once.
    """

    file_name: ClassVar[str] = "model.tflite"
    packages: ClassVar[tuple[str, ...]] = ("ai_edge_litert",)

    int4: bool = False
    header: bool = False
    calibration: Iterable[Any] | None = None
    flash: float | None = None
    ram: float | None = None

    @override
    def for_float32(self) -> TFLite:
        return TFLite()

    def export(self, module: nn.Module, path: str | Path, example: Any) -> ExportReport:
        """Write the file, see :class:`~lightning_compress.export.exporter.Exporter`.

        The report's parity is that of LiteRT with XNNPACK; with weights of 4 bits, and where only that is installed,
        that of TFLite-Micro.
        """
        for name in ("flash", "ram"):
            limit = getattr(self, name)
            if limit is not None and not (isinstance(limit, int | float) and limit > 0):
                raise CompressError(f"export: {name} is {limit!r}; it must be a number of bytes above 0, or None")
        path, x = Path(path), compared.first_samples(example)
        expected = compared.expected_of(module, x)
        found = deployable(module, x, self.calibration)
        if found.graph is None:
            raise NoIntegerFormError(f"export: .tflite files cannot hold this network: {found.reason}")
        content = tflite_bytes(found.graph, self.int4)
        report = self._report(found, found.graph, content, path, x, expected)
        self._check_limits(report)
        write_whole(path, content)
        if self.header:
            write_whole(path.with_suffix(".h"), c_array(content, path.stem).encode())
        return report

    def _check_limits(self, report: ExportReport) -> None:
        assert report.deployed is not None
        arena = report.deployed.arena_bytes or report.deployed.activation_bytes
        for what, taken, limit, remedy in (
            ("flash", report.bytes, self.flash, "fewer channels"),
            ("ram", arena, self.ram, "fewer channels where maps are large"),
        ):
            if limit is not None and taken is not None and taken > limit:
                raise CompressError(
                    f"export: the .tflite network takes {taken:,} bytes of {what}, and the limit is {limit:,.0f}; "
                    f"prune to {remedy}, or raise the limit"
                )

    def _report(
        self, found: Deployable, graph: Graph, content: bytes, path: Path, x: Tensor, expected: Tensor
    ) -> ExportReport:
        notes = list(found.notes)
        nibbles = self.int4 and any(in_nibbles(operation) for operation in graph.weighted)
        if nibbles:
            notes.append("weights of 4 bits run in TFLite's own kernels, not in XNNPACK: slower than int8 on phones")
        whole = [op.module for op in graph.weighted if op.bits <= INT4_BITS and not in_nibbles(op)]
        if self.int4 and whole:
            notes.append(f"weights of {whole} take a byte each: no kernel for 4 bits fits their scales or levels")
        if any(isinstance(operation, ConvTranspose) for operation in graph.operations):
            notes.append("the file takes one sample at a time: TRANSPOSE_CONV holds the shape of its output")
        if graph.integer:
            grid = graph.grid(graph.input)
            notes.append(f"input: int8 round(x / {grid.scale:.9g}) {'- 128' if grid.low == 0 else '+ 0'}, NHWC")
        micro = graph.integer and find_spec("tflite_micro") is not None
        engine: LiteRT | TFLiteMicro = TFLiteMicro(content) if micro and nibbles else LiteRT(content)
        stored = stored_input(x, graph.tensors[graph.input].grid)
        outputs = compared.checked_outputs(found, x, expected, lambda: _values(engine.run(stored), graph), path)
        rounding = DoubleRounding() if isinstance(engine, TFLiteMicro) else LiteRTRounding()
        off = compared.off_emulation(graph, x, outputs, rounding)
        left = _left(engine, nibbles)
        if isinstance(engine, LiteRT):
            parts, outside = engine.parts()
            rest = f", and {', '.join(sorted(set(outside)))} outside of it" if outside else ""
            notes.append(f"{parts} parts of the network run in XNNPACK{rest}")
        deployed = Deployed(
            engine.version, compared.machine(), len(gzip.compress(content, mtime=0)),
            len(graph.weighted) - len(left) if graph.integer else 0,
            tuple(left) if graph.integer else tuple(operation.module for operation in graph.weighted),
            *off, compared.slope(expected, outputs),
            engine.milliseconds(stored[:1]) if isinstance(engine, LiteRT) else None, graph.peak_bytes(),
            arena_bytes(content) if micro else None,
        )  # fmt: skip
        return ExportReport(path, len(content), compared.parity(expected, outputs), tuple(notes), deployed)


def _values(stored: np.ndarray, graph: Graph) -> Tensor:
    """Return outputs as float values in torch's layout."""
    grid = graph.tensors[graph.output].grid
    found = from_stored(stored, grid)
    return found if grid is None else to_values(found, grid)


def _left(engine: LiteRT | TFLiteMicro, nibbles: bool) -> list[str]:
    """Return the weighted operators that XNNPACK left to slower kernels.

    Raises:
        CompressError: there are some, and no weights of 4 bits to explain them.
    """
    if isinstance(engine, TFLiteMicro) or nibbles:
        return []
    left = [name for name in engine.parts()[1] if name in WEIGHTED]
    if left:
        raise CompressError(
            f"export: {engine.version} does not run {len(left)} of the layers in XNNPACK ({sorted(set(left))}); this "
            f"is a fault of the file, please report it"
        )
    return left
