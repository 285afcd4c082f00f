"""Hydra callbacks of ``train.py``: check the folder before jobs, and write one table of a multirun."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from lightning_compress.core.atomic_write import atomic_write
from lightning_compress.core.disk import check_writable
from lightning_compress.core.errors import CompressError


class CheckFolder(Callback):
    """A Hydra callback that tries the run's folder before Hydra makes it, whose own error would be a stack trace."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check the folder of a single run."""
        HydraConfig.instance().set_config(config)  # as Hydra itself does next: the folder's name may ask for it
        _check(Path(config.hydra.run.dir), "run_dir")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Check the folder of a multirun."""
        _check(Path(config.hydra.sweep.dir), "sweep_dir")


def _check(folder: Path, setting: str) -> None:
    """End the process with one sentence if nothing can be written to ``folder``."""
    try:
        check_writable(folder, setting)
    except CompressError as error:
        sys.exit(f"error: {error}")


class SweepSummary(Callback):
    """A Hydra callback that writes ``summary.csv`` into the sweep's folder and prints it."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.overrides: list[list[str]] = []  # of each row's job
        self.figures: list[dict[str, dict[str, Any]]] = []  # of each row's job, by name, as ``result.json`` has them

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Note the result of a multirun's job; a failed one has its reason, and empty columns."""
        if config.hydra.mode is not RunMode.MULTIRUN:  # Hydra calls this for single runs too
            return
        try:
            result = job_return.return_value if isinstance(job_return.return_value, dict) else {}
        except Exception as error:  # of the job
            result = {"error": f"{type(error).__name__}: {error}"}
        failed = job_return.status is not JobStatus.COMPLETED or "error" in result
        row: dict[str, Any] = {
            "folder": Path(config.hydra.runtime.output_dir).name,
            "job": ",".join(job_return.overrides or []),
            "status": "failed" if failed else "completed",
            "error": result.get("error", ""),
        }
        figures = {figure["name"]: figure for figure in result.get("figures", ())}
        row |= {f"dense_{name}": result["dense"][name] for name in figures}
        row |= {name: result["compressed"][name] for name in figures}
        row |= {key: result[key] for key in ("metric", "seconds") if key in result}
        self.rows.append(row)
        self.figures.append(figures)
        self.overrides.append(list(job_return.overrides or []))
        self.write(config)  # after each job, so that a sweep that is stopped leaves what it has

    def write(self, config: DictConfig) -> Path:
        """Write the table: rows that other sweeps left in the file stay, but for those of the same folders."""
        file = Path(config.hydra.sweep.dir) / "summary.csv"
        with FileLock(file.with_name(f".{file.name}.lock")):  # jobs may run side by side, each with a callback
            mine = {row["folder"] for row in self.rows}
            rows = [*(row for row in _rows(file) if row.get("folder") not in mine), *self.rows]
            names = dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row)
            with atomic_write(file) as part, part.open("w", newline="") as out:
                writer = csv.DictWriter(out, list(names))
                writer.writeheader()
                writer.writerows(rows)
        return file

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print of each job what only some of the jobs had and the figures that matter most, and where the table is.

        The process ends with status 1 if a job failed.
        """
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        from lightning_compress.pipeline.figures import Figure

        file = self.write(config)
        everywhere = set.intersection(*map(set, self.overrides)) if len(self.overrides) > 1 else set()
        table = Table()
        table.add_column("job", overflow="fold")
        known = {name: Figure(**told) for figures in self.figures for name, told in figures.items()}
        headlines = [figure for figure in known.values() if figure.headline]
        for name in (*(figure.title for figure in headlines), "seconds"):
            table.add_column(name, justify="right", max_width=14)  # a heading breaks before a job's name does
        for row, overrides in zip(self.rows, self.overrides, strict=True):
            cells = [figure.number(row[figure.name]) if figure.name in row else "" for figure in headlines]
            seconds = f"{row['seconds']:.0f}" if "seconds" in row else row["status"]
            job = "\n".join(each for each in overrides if each not in everywhere)
            table.add_row(*map(Text, (job, *cells, seconds)))  # an override may be layers=[layer1]
        console = Console()
        console.print(table)
        failed = [row for row in self.rows if row["status"] == "failed"]
        for row in failed:
            console.print(Text(f"{row['folder']}: {row['error'] or 'it failed'}"), soft_wrap=True)
        console.print(Text(str(file)), soft_wrap=True)
        if failed:
            sys.exit(1)


def _rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows that are in a table, without empty cells; none where there is no table."""
    if not file.is_file():
        return []
    with file.open(newline="") as table:
        return [{key: cell for key, cell in row.items() if key and cell} for row in csv.DictReader(table)]
