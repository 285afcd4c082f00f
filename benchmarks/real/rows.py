"""Append rows of a benchmark to a file, read them again, and ask for the jobs of its command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

WHOLE = "32-true"  # precision of rows that name none
Job = Callable[[argparse.Namespace], None]


def rows_of(file: Path) -> list[dict[str, Any]]:
    """Return the rows that a file holds; none where there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def compared(row: Mapping[str, Any], *names: str) -> tuple[Any, ...]:
    """Return what rows share that are compared: these columns, and the precision, which older rows do not name."""
    return (*(row[name] for name in names), row.get("precision", WHOLE))


def append(file: Path, row: dict[str, Any]) -> None:
    """Add a row to a file, and print it."""
    with file.open("a") as out:
        out.write(json.dumps(row) + "\n")
    print(row, flush=True)


def spread(values: list[float], sign: str = "") -> str:
    """Return mean and standard deviation."""
    if not values:
        return "-"
    return f"{mean(values):{sign}.2f}" + (f" +- {stdev(values):.2f}" if len(values) > 1 else "")


def asking(description: str | None, run: Job, steps: int) -> tuple[argparse.ArgumentParser, Any, Any]:
    """Return a parser, its jobs, and that of ``run``: networks, data, seeds and steps of 128 images."""
    asked = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = asked.add_subparsers(required=True)
    running = data_job(jobs, "run", "add the rows that are missing", run)
    running.add_argument("--seeds", type=int, nargs="+", default=[0])
    running.add_argument("--steps", type=int, default=steps, help="of the training, 128 images each")
    return asked, jobs, running


def precise(running: Any) -> None:
    """Ask for the precision of trainings; with AMX, bf16 is faster where widths are multiples of 16."""
    running.add_argument(
        "--precision",
        default=WHOLE,
        choices=[WHOLE, "bf16-mixed"],
        help="of the trainings, as Lightning names it",
    )


def data_job(jobs: Any, name: str, purpose: str, job: Job) -> Any:
    """Add a job that takes networks and data."""
    made = jobs.add_parser(name, help=purpose)
    made.add_argument("nets", type=Path)
    made.add_argument("npz", type=Path)
    made.set_defaults(job=job)
    return made


def start(asked: argparse.ArgumentParser, jobs: Any, printing: Job) -> None:
    """Add the job that prints and the folder of all jobs, and run the one that was asked for."""
    jobs.add_parser("table", help="print all rows").set_defaults(job=printing)
    for job in jobs.choices.values():
        job.add_argument("--folder", type=Path, default=Path("runs/search_real"))
    arguments = asked.parse_args()
    arguments.job(arguments)
