"""``lightning-compress report RUN RUN ...``: finished runs side by side, in the terminal and as one HTML page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_compress.core.errors import CompressError
from lightning_compress.core.json_record import read_record

if TYPE_CHECKING:
    from lightning_compress.pipeline.figures import Figure

LABEL, NAME = 26, 10  # most letters of a line of a label, and fewest of a line of a run's name
KEYS = ("figures", "dense", "compressed", "seconds", "searches", "test_samples")


def read_run(folder: Path) -> dict[str, Any]:
    """Return the result of a run.

    Raises:
        CompressError: there is none, or it cannot be read.
    """
    file = folder / "result.json"
    if not file.is_file():
        raise CompressError(f"report: {str(folder)!r} holds no finished run; there is no {file.name} in it")
    run = read_record(file, "run that command again")
    if missing := [key for key in KEYS if key not in run]:
        raise CompressError(
            f"report: {str(file)!r} is damaged or of an earlier version (it has no {missing}); run that command again"
        )
    try:
        from lightning_compress.pipeline.figures import from_dicts  # torch loads only now, so that --help is quick

        run["figures"] = from_dicts(run["figures"])
    except TypeError as error:
        raise CompressError(f"report: {str(file)!r} is damaged (figures: {error}); run that command again") from error
    for net in ("dense", "compressed"):
        told = run[net] if isinstance(run[net], Mapping) else {}
        missing = [figure.name for figure in run["figures"] if figure.name not in told]
        if missing:
            raise CompressError(f"report: {str(file)!r} is damaged ({net!r} has no {missing}); run that command again")
    return run


def names(folders: Sequence[Path]) -> dict[str, Path]:
    """Return the shortest distinct ends of the paths, each with its folder; a repeated folder counts once.

    >>> list(names([Path("runs/a/0"), Path("runs/b/0")]))
    ['a/0', 'b/0']
    """
    paths = list(dict.fromkeys(folder.resolve() for folder in folders))
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        found = {str(Path(*path.parts[-length:])): path for path in paths}
        if len(found) == len(paths):
            break
    return found


def columns(runs: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return a header, then one row for each figure: the compressed networks, and the dense ones before them.

    There is one dense column when the dense networks are the same, and one for each run when they differ.
    """
    figures = _figures(runs.values())
    # What is measured is never twice the same, and a run may have figures that others have not.
    exact = {figure.name for figure in figures.values() if not figure.measured}
    told = [{key: value for key, value in run["dense"].items() if key in exact} for run in runs.values()]
    one = all(dense[key] == told[0].get(key, dense[key]) for dense in told for key in dense)
    nets: dict[str, dict[str, str]] = {}
    for name, run in runs.items():
        dense = "dense" if one else f"dense of {name}"
        nets[dense] = {**_texts(run, "dense"), **nets.get(dense, {})}
        nets[name] = _texts(run, "compressed")
    shown = [(label, *(texts.get(label, "") for texts in nets.values())) for label in figures]

    def of_runs(label: str, cells: Mapping[str, str]) -> tuple[str, ...]:
        return label, *(cells.get(name, "") for name in nets)

    seconds = of_runs("seconds", {name: f"{run['seconds']:.0f}" for name, run in runs.items()})
    searches = [of_runs(label, cells) for label, cells in _searches(runs).items()]
    samples = of_runs("test samples", {name: f"{run['test_samples']:,}" for name, run in runs.items()})
    return [("", *nets), *shown, samples, seconds, *searches]


def _figures(runs: Iterable[Mapping[str, Any]]) -> dict[str, Figure]:
    """Return label with unit -> figure of all runs, in the order of the first run that has each."""
    return {figure.title: figure for run in runs for figure in run["figures"]}


def _texts(run: Mapping[str, Any], net: str) -> dict[str, str]:
    """Return label -> number of one network."""
    return {figure.title: figure.number(run[net][figure.name]) for figure in run["figures"]}


def _searches(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return label -> name of a run -> cell of what each search and its baselines found."""
    rows: dict[str, dict[str, str]] = {}
    for name, run in runs.items():
        for stage, found in run["searches"].items():
            cells = {
                "searcher": found["searcher"],
                "reward": found["objective"],
                **{f"best of {other}": f"{reward:.4f}" for other, reward in found["best"].items()},
                "trials": f"{found['trials']:,}",
                "failed": f"{found['failed']:,}",
            }
            for label, cell in cells.items():
                rows.setdefault(f"{stage}: {label}", {})[name] = cell
    return dict(sorted(rows.items(), key=lambda row: row[0].split(":")[0]))  # a stage's rows together


def parts(rows: Sequence[tuple[str, ...]], width: int) -> list[list[tuple[str, ...]]]:
    """Return the table as several, where it is too wide: each with the labels and the dense network, and some runs.

    Args:
        rows: as :func:`columns` returns them.
        width: of the terminal, in letters.
    """
    # Names and words may break into lines; numbers may not.
    sizes = [3 + min(max(*(len(cell) for cell in column[1:]), NAME), LABEL) for column in zip(*rows, strict=True)]
    groups: list[list[int]] = [[]]
    for i in range(2, len(sizes)):
        if groups[-1] and 1 + sum(sizes[j] for j in (0, 1, *groups[-1], i)) > width:
            groups.append([])
        groups[-1].append(i)
    return [[tuple(row[i] for i in (0, 1, *group)) for row in rows] for group in groups]


def main(given: Sequence[str]) -> None:
    """Print the comparison.

    Args:
        given: the folders of runs, and options.
    """
    parser = argparse.ArgumentParser(prog="lightning-compress report", description="Set finished runs side by side.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument("--html", type=Path, help="also write the table as a page")
    arguments = parser.parse_args(given)
    try:
        rows = columns({name: read_run(folder) for name, folder in names(arguments.runs).items()})
    except CompressError as error:
        sys.exit(f"error: {error}")
    console = Console()
    for part in parts(rows, console.width):
        table = Table()  # of Text: a folder may be named [red]
        for name in part[0]:
            table.add_column(
                Text(name), justify="right" if name else "left", overflow="fold", max_width=None if name else LABEL
            )  # labels break into lines before numbers do
        for row in part[1:]:
            table.add_row(*map(Text, row))
        console.print(table)
    if arguments.html is not None:
        try:
            from lightning_compress.app.report.html import comparison

            arguments.html.write_text(comparison(rows), encoding="utf-8")
        except OSError as error:
            sys.exit(f"error: report: cannot write {str(arguments.html)!r}: {error.strerror}; choose another --html")
