"""Result of a run, beside its files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from lightning import LightningModule

from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.export.export_network import export
from lightning_compress.export.exporter import Exporter, ExportReport
from lightning_compress.pipeline.configuration import PACKED
from lightning_compress.pipeline.figures import Figure, Figures, to_dicts
from lightning_compress.pipeline.verdict import verdict


@dataclass(frozen=True)
class Result:
    """Result of a run, beside its files.

    Attributes:
        dense: figures of the network before compression.
        compressed: figures of the network as its packed file holds it.
        plan: the plan of all stages, as it was applied.
        seconds: that the run took until its first result, all parts of a run that was killed and went on included.
        folder: of the run, with the packed file, the plan, the journals and the report.
        searches: stage -> what its search found; only of stages that searched in this run.
        metric: that ``accuracy`` is, as ``test_step`` logs it.
        exports: name of the exporter -> what it wrote.
        figures: what ``dense`` and ``compressed`` hold, in the order of tables.
        samples: number of test samples.
        origins: stage -> how its plan came about, in one sentence; of stages with callbacks.
        limits: stage -> the budget that its plan was made for, in words; of stages with one.
        layers: names of the dense network's layers in the order in which they run.
        module: the compressed module, as its packed file holds it.
        example: one input batch of it.
    """

    dense: Figures
    compressed: Figures
    plan: Plan
    seconds: float
    folder: Path
    searches: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    metric: str = "test_acc"
    exports: Mapping[str, ExportReport] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    samples: int = 0
    origins: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    layers: Sequence[str] = ()
    module: LightningModule | None = field(default=None, repr=False)
    example: Any = field(default=None, repr=False)

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        return verdict(self.figures, self.dense, self.compressed, self.samples)

    def save(self, path: str | Path) -> Path:
        """Copy the packed file, which :func:`lightning_compress.load` reads.

        Args:
            path: of the copy.

        Raises:
            CompressError: it cannot be written.
        """
        try:
            return Path(shutil.copyfile(self.exports[PACKED].path, path))
        except OSError as error:
            raise CompressError(f"save: cannot write {str(path)!r}: {error.strerror}; choose another path") from error

    def export(self, path: str | Path, exporter: Exporter | None = None) -> ExportReport:
        """Write the compressed network for another runtime; see :func:`lightning_compress.export`.

        Args:
            path: of the file to write. Its ending says the format, unless ``exporter`` does.
            exporter: with its settings.

        Raises:
            CompressError: the format is not known, or cannot hold the network.
        """
        assert self.module is not None  # a result of a run has it
        return export(self.module, path, example_input=self.example, exporter=exporter)

    def to_dict(self) -> dict[str, Any]:
        """Return all but the module as plain types."""
        return {
            "figures": to_dicts(self.figures),
            "dense": dict(self.dense),
            "compressed": dict(self.compressed),
            "test_samples": self.samples,
            "plan": self.plan.to_dict(),
            "seconds": self.seconds,
            "searches": dict(self.searches),
            "metric": self.metric,
            "origins": dict(self.origins),
            "limits": dict(self.limits),
            "exports": {name: report.to_dict() for name, report in self.exports.items()},
        }

    def _repr_html_(self) -> str:
        """Return the verdict, the figures of both networks as a table, and how the plan came about, for notebooks."""
        rows = "".join(
            f"<tr><th>{escape(figure.label)}</th>"
            + "".join(f"<td>{escape(text)}</td>" for text in self._texts(figure))
            + "</tr>"
            for figure in self.figures
        )
        told = "".join(f"<li><b>{escape(stage)}</b>: {escape(origin)}</li>" for stage, origin in self.origins.items())
        return (
            f"<p>{escape(self.verdict)}</p><table><thead><tr><th></th><th>dense</th><th>compressed</th><th>change</th></tr></thead>"
            f"<tbody>{rows}</tbody></table><ul>{told}</ul><p>{escape(str(self.folder))}</p>"
        )

    def _texts(self, figure: Figure) -> tuple[str, str, str]:
        dense, compressed = self.dense[figure.name], self.compressed[figure.name]
        return figure.text(dense), figure.text(compressed), figure.change(dense, compressed)
