"""``lightning-compress report RUN RUN ...``: finished runs side by side, in the terminal and as one HTML page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lightning_compress.deploy.page import page
from lightning_compress.errors import CompressError

FIGURES = {
    "accuracy": ("test accuracy", "{:.2%}"),
    "bytes": ("file, bytes", "{:,}"),
    "weight_bits": ("weight bits", "{:,}"),
    "macs": ("MACs", "{:,}"),
    "parameters": ("parameters", "{:,}"),
    "latency_ms": ("latency, ms", "{:.3f}"),
}


def read_run(folder: Path) -> dict[str, Any]:
    """The result of a run.

    Raises:
        CompressError: there is none, or it cannot be read.
    """
    file = folder / "result.json"
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        raise CompressError(f"report: {str(folder)!r} holds no finished run; there is no {file.name} in it") from None
    except ValueError as error:
        raise CompressError(f"report: {str(file)!r} is damaged ({error}); run that command again") from error


def columns(runs: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A header, then one row for each figure: the dense network of the first run, then each compressed one."""
    first = next(iter(runs.values()))
    nets = [first["dense"], *(run["compressed"] for run in runs.values())]
    figures = [(label, *(form.format(net[key]) for net in nets)) for key, (label, form) in FIGURES.items()]
    return [("", "dense", *runs), *figures, ("seconds", "", *(f"{run['seconds']:.0f}" for run in runs.values()))]


def comparison(rows: Sequence[Sequence[str]]) -> str:
    """The rows as an HTML page that needs nothing else."""
    head, *body = rows
    header = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(f'<td data-name="{escape(n)}">{escape(c)}</td>' for n, c in zip(head[1:], cells, strict=True))
        + "</tr>\n"
        for label, *cells in body
    )
    body = f'<div class="scroll"><table>\n<thead><tr>{header}</tr></thead>\n<tbody>\n{lines}</tbody>\n</table></div>'
    return page("Runs side by side", f"<h1>Runs side by side</h1>\n{body}")


def main() -> None:
    """The command ``lightning-compress``."""
    parser = argparse.ArgumentParser(prog="lightning-compress", description=__doc__)
    commands = parser.add_subparsers(required=True)
    report = commands.add_parser("report", help="finished runs side by side")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    report.add_argument("--html", type=Path, help="also write the table as a page")
    arguments = parser.parse_args()
    try:
        rows = columns({run.name: read_run(run) for run in arguments.runs})
    except CompressError as error:
        sys.exit(f"error: {error}")
    table = Table()
    for name in rows[0]:
        table.add_column(name, justify="right" if name else "left", overflow="fold")
    for row in rows[1:]:
        table.add_row(*row)
    Console().print(table)
    if arguments.html is not None:
        arguments.html.write_text(comparison(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
