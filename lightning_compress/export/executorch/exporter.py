"""The .pte file: for ExecuTorch on phones, with XNNPACK's kernels."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.export import compared
from lightning_compress.export.deployable import Deployable, deployable
from lightning_compress.export.executorch.network import GraphNetwork
from lightning_compress.export.executorch.program import NOT_INSTALLED, Program, Runtime, lowered
from lightning_compress.export.executorch.rewrite import rewritten
from lightning_compress.export.exporter import Deployed, Exporter, ExportReport
from lightning_compress.export.integer.rounding.single import SingleRounding
from lightning_compress.export.whole_file import write_whole


@dataclass(frozen=True)
class ExecuTorch(Exporter):
    """Write a .pte file with float32 inputs and outputs, and int8 inside where the network is quantized.

    Weights of any width are stored as int8, biases as int32. Lowering takes half a minute.

    Args:
        batch: samples of one call; the file takes no other number.
        calibration: batches from which all missing grids are set; None leaves a float network in floating point.
    """

    file_name: ClassVar[str] = "model.pte"
    packages: ClassVar[tuple[str, ...]] = ("executorch",)

    batch: int = 1
    calibration: Iterable[Any] | None = None

    @override
    def for_float32(self) -> ExecuTorch:
        return ExecuTorch(self.batch)

    def export(self, module: nn.Module, path: str | Path, example: Any) -> ExportReport:
        """Write the file, see :class:`~lightning_compress.export.exporter.Exporter`."""
        path, x = Path(path), compared.first_samples(example)
        if not isinstance(self.batch, int) or self.batch < 1:
            raise CompressError(f"export: batch is {self.batch!r}, and a .pte file takes at least one sample at a time")
        expected = compared.expected_of(module, x)
        if find_spec("executorch") is None:
            raise CompressError(NOT_INSTALLED)
        found = deployable(module, x, self.calibration)
        one = x[:1].expand(self.batch, *x.shape[1:]).contiguous()
        program = lowered(found.reference if found.graph is None else GraphNetwork(found.graph), one)
        report = self._report(found, program, path, x, one, expected)
        write_whole(path, program.content)
        return report

    def _report(
        self, found: Deployable, program: Program, path: Path, x: Tensor, one: Tensor, expected: Tensor
    ) -> ExportReport:
        graph = found.graph
        integer = graph is not None and graph.integer
        if integer and program.left:
            raise CompressError(
                f"export: XNNPACK does not take {len(program.left)} of the layers that were to run in integers "
                f"({sorted(set(program.left))}); this is a fault of the file, please report it"
            )
        runtime, rows = Runtime(program.content), -(-len(x) // self.batch) * self.batch
        samples = x.repeat(-(-rows // len(x)), *[1] * (x.dim() - 1))[:rows]
        outputs = compared.checked_outputs(found, x, expected, lambda: runtime.run(samples)[: len(x)], path)
        off = compared.off_emulation(
            rewritten(graph) if graph is not None and integer else None, x, outputs, SingleRounding()
        )
        weighted = graph.weighted if graph is not None else []
        deployed = Deployed(
            runtime.version, compared.machine(), len(gzip.compress(program.content, mtime=0)),
            len(weighted) if integer else 0, () if integer else tuple(operation.module for operation in weighted),
            *off, compared.slope(expected, outputs),
            runtime.milliseconds(one) / self.batch, graph.peak_bytes() if graph is not None else None,
        )  # fmt: skip
        parts = f"{program.parts} parts of the network run in XNNPACK"
        rest = f", and {', '.join(sorted(set(program.outside)))} outside of it" if program.outside else ""
        parity = compared.parity(expected, outputs)
        return ExportReport(path, len(program.content), parity, (*found.notes, f"{parts}{rest}"), deployed)
