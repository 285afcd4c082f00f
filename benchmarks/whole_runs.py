"""Whole runs of ``train.py`` as rows of a benchmark: each in a folder of its own; finished runs are not run again."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULT = "result.json"


def parser(description: str, data: Iterable[str]) -> argparse.ArgumentParser:
    """Return a parser with the options of scripts that run on digits and CIFAR-10."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("data", choices=list(data))
    found.add_argument("--seeds", type=int, nargs="+", default=[0])
    found.add_argument("--npz", default="cifar10.npz")
    found.add_argument("--ckpt", help="a dense network that is there; without it each seed trains its own")
    found.add_argument("--folder", default="runs")
    found.add_argument("--cache", default="cache")
    return found


def run(command: list[str], folder: Path) -> dict:
    """Return the result of a run, from its folder if it is there."""
    file = folder / RESULT
    if not file.is_file():
        done = subprocess.run(
            [sys.executable, "train.py", *command, f"run_dir={folder}"], cwd=ROOT, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return json.loads(file.read_text())


def slug(*words: str) -> str:
    """Return a folder's name made of what rows are called."""
    return "-".join("".join(c if c.isalnum() else "_" for c in word) for word in words)
