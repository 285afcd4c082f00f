"""What a run of ``train.py`` does before and after its jobs: the folder is tried, and a multirun gets one table."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

COLUMNS = ("accuracy", "bytes", "weight_bits", "macs", "parameters", "latency_ms")


class CheckFolder(Callback):
    """A Hydra callback that tries the run's folder before Hydra makes it, whose own error would be a stack trace."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Of a single run."""
        HydraConfig.instance().set_config(config)  # as Hydra itself does next: the folder's name may ask for it
        _check(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Of a multirun."""
        _check(Path(config.hydra.sweep.dir))


def _check(folder: Path) -> None:
    """End the process with one sentence if nothing can be written to ``folder``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        print(f"error: cannot write to {str(folder)!r}: {error.strerror}; choose another run_dir=")
        sys.exit(1)


class SweepSummary(Callback):
    """A Hydra callback that writes ``summary.csv`` into the sweep's folder and prints it."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Note the result of a multirun's job; a failed one has empty columns."""
        if config.hydra.mode is not RunMode.MULTIRUN:  # Hydra calls this for single runs too
            return
        row: dict[str, Any] = {"job": ",".join(job_return.overrides or []), "status": job_return.status.name.lower()}
        if job_return.status is JobStatus.COMPLETED and isinstance(job_return.return_value, dict):
            result = job_return.return_value
            row |= {f"dense_{c}": result["dense"][c] for c in COLUMNS}
            row |= {c: result["compressed"][c] for c in COLUMNS} | {"seconds": result["seconds"]}
        self.rows.append(row)
        self.write(config)  # after each job, so that a sweep that is stopped leaves what it has

    def write(self, config: DictConfig) -> Path:
        """Write the table."""
        file = Path(config.hydra.sweep.dir) / "summary.csv"
        with file.open("w", newline="") as out:
            writer = csv.DictWriter(out, self._names())
            writer.writeheader()
            writer.writerows(self.rows)
        return file

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the table."""
        from rich.console import Console
        from rich.table import Table

        table = Table(title=str(self.write(config)))
        for name in self._names():
            table.add_column(name, overflow="fold")
        for row in self.rows:
            table.add_row(*(str(row.get(name, "")) for name in self._names()))
        Console().print(table)

    def _names(self) -> list[str]:
        return list(max(self.rows, key=len, default={}))
