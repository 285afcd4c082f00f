"""``lightning-compress export``. Torch loads only after the command line is read, so that --help is quick."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_compress.app.formats import known_formats
from lightning_compress.core.errors import CompressError


def main(arguments: Sequence[str]) -> None:
    """Write the files that a command line asks for; print one line for each."""
    parser = argparse.ArgumentParser(
        prog="lightning-compress export", description="Write the network of a finished run for other runtimes."
    )
    parser.add_argument("run_dir", type=Path, help="the folder of a finished run")
    parser.add_argument("--format", nargs="+", required=True, help=f"of {known_formats()}")
    parser.add_argument(
        "--calibrate", action="store_true", help="set the grids of a network in floating point from train data"
    )
    given = parser.parse_args(arguments)
    from lightning_compress.app.export_run import export_run

    try:
        for report in export_run(given.run_dir, given.format, given.calibrate):
            print(f"{report.path}: {report.told}")
    except CompressError as error:
        sys.exit(f"error: {error}")
