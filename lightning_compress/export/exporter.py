"""Exporters: a finished network -> a file for one runtime, with a report of what was written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from lightning_compress.core.kinds import HasKind


@dataclass(frozen=True)
class Parity:
    """Comparison of the file, as its runtime reads it, with the network that was given, before missing grids are set.

    Attributes:
        samples: number of samples that both were run on.
        agreement: share of the samples on which both have the same largest output, in [0, 1].
        mean_error: mean absolute difference of the outputs.
        max_error: largest absolute difference of the outputs.
    """

    samples: int
    agreement: float
    mean_error: float
    max_error: float


@dataclass(frozen=True)
class Deployed:
    """Measurements of a file in its runtime, on this machine.

    Attributes:
        runtime: its name and version.
        machine: the processor.
        gzip_bytes: size of the file, compressed.
        integer_kernels: convolutions and matrix products that run in integers.
        float_kernels: names of those that run in floating point.
        values_off: share of output values that differ from an exact emulation of the runtime's arithmetic, in [0, 1];
            None in floating point.
        argmax_off: the same of samples whose largest output is another.
        slope: of the regression of the runtime's outputs on those of the network; a wrong scale shows here alone.
        milliseconds: least CPU time of one sample on one thread; None where the runtime is not for this machine.
        activation_bytes: bytes of activations that are alive at once, at most, for one sample.
        arena_bytes: memory that TFLite-Micro takes; None where it was not asked.
    """

    runtime: str
    machine: str
    gzip_bytes: int
    integer_kernels: int
    float_kernels: tuple[str, ...]
    values_off: float | None
    argmax_off: float | None
    slope: float
    milliseconds: float | None
    activation_bytes: int | None
    arena_bytes: int | None = None


@dataclass(frozen=True)
class ExportReport:
    """Report of what an exporter wrote.

    Attributes:
        path: of the file.
        bytes: size of the file.
        parity: None where the file cannot be run here.
        notes: sentences for the user, such as what the runtime does not do in integers.
        deployed: None where the runtime is not installed, or there is none but this package.
    """

    path: Path
    bytes: int
    parity: Parity | None = None
    notes: tuple[str, ...] = ()
    deployed: Deployed | None = None

    @property
    def sentence(self) -> str:
        """The size, and what the runtime makes of the file."""
        found = [f"{self.bytes:,} bytes"]
        if self.deployed is not None:
            d = self.deployed
            found[0] += f" ({d.gzip_bytes:,} gzipped)"
            found.append(f"{d.integer_kernels} layers in integers and {len(d.float_kernels)} in float32")
            found += [] if d.milliseconds is None else [f"{d.milliseconds:.3f} ms a sample on one thread"]
            found += [] if d.activation_bytes is None else [f"{d.activation_bytes:,} bytes of activations at once"]
            found += [] if d.arena_bytes is None else [f"{d.arena_bytes:,} bytes of TFLite-Micro's memory"]
            found.append(f"{d.runtime} on {d.machine}")
            if d.values_off is not None and d.argmax_off is not None:
                found.append(
                    f"{100 * d.values_off:.3g} % of the values and {100 * d.argmax_off:.3g} % of the largest outputs "
                    f"differ from the emulation"
                )
        if self.parity is not None:
            p = self.parity
            slope = "" if self.deployed is None else f", slope {self.deployed.slope:.4f}"
            found.append(
                f"same largest output as the network for {100 * p.agreement:.2f} % of {p.samples} samples, mean error "
                f"{p.mean_error:.2g}{slope}"
            )
        return "; ".join(found)

    @property
    def told(self) -> str:
        """The sentence and all notes, for the user."""
        return "; ".join((self.sentence, *self.notes))

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON; the path is the file's name alone."""
        return {**asdict(self), "path": self.path.name, "notes": list(self.notes)}


class Exporter(HasKind, ABC):
    """Writes a finished network for one runtime. Settings are the constructor's arguments.

    Attributes:
        file_name: of the file in a run's folder; no two exporters of a run may share one.
        packages: import names of what must be installed beside this package.
    """

    file_name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()

    def for_float32(self) -> Exporter:
        """Return the exporter that writes a network in float32 of the same format, to compare with: without limits."""
        return self

    @abstractmethod
    def export(self, module: nn.Module, path: str | Path, example: Any) -> ExportReport:
        """Write the file.

        Args:
            module: a LightningModule or a network, dense or compressed, also one that ``load`` returned; its
                parameters, buffers and modes are left as they are.
            path: of the file; one that exists is replaced, and only by a whole one.
            example: one input batch (tensor, tuple or dict).

        Raises:
            CompressError: the network has something that the format cannot hold, a package is missing, the file does
                not give the outputs of the network, or it cannot be written.
        """
