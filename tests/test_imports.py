"""Test who may import whom: planted violations make ``lint-imports`` fail, and no module imports itself in a circle."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest
import torch
from torch import nn

import lightning_compress as lc
from lightning_compress.callbacks.quantization import QuantizationAwareTraining

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """Return the package and its contracts, in a folder of their own."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copytree(ROOT / "lightning_compress", folder / "lightning_compress", ignore=shutil.ignore_patterns("*.yaml"))
    return folder


def lint(folder: Path) -> subprocess.CompletedProcess:
    line = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=60)


def test_the_contracts_are_kept(copy):
    done = lint(copy)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("file", "line", "broken"), [
    ("search/searchers/greedy.py", "from lightning_compress.callbacks.low_rank import LowRank", "who may import whom"),
    ("search/searchers/new.py", "from lightning_compress.callbacks.low_rank import LowRank", "who may import whom"),
    ("search/searchers/new.py", "from lightning_compress.surgery import mask", "who may import whom"),
    ("core/new.py", "from lightning_compress.surgery import mask", "who may import whom"),
    ("core/costs/new.py", "from lightning_compress.pipeline.stage import Stage", "who may import whom"),
    ("pruning/criteria/new.py", "from lightning_compress.quantization import kmeans", "who may import whom"),
    ("callbacks/new.py", "from lightning_compress.callbacks.low_rank import LowRank", "the methods do not import each"),
    ("callbacks/new.py", "from lightning_compress.export.save import save", "who may import whom"),
    ("testing/new.py", "from lightning_compress.pipeline.stage import Stage", "who may import whom"),
    ("callbacks/new.py", "from lightning_compress.testing.toys import ToyNet", "who may import whom"),
    ("new_folder/__init__.py", "from lightning_compress.app import main", "who may import whom"),
])  # fmt: skip
def test_a_planted_import_breaks_a_contract(copy, file, line, broken):
    """Also in a file, or a folder, that no contract has heard of."""
    planted = copy / "lightning_compress" / file
    before = planted.read_text() if planted.exists() else None
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(f"{before or ''}\n{line}\n")
    try:
        done = lint(copy)
    finally:
        if before is not None:
            planted.write_text(before)
        elif planted.name == "__init__.py":
            shutil.rmtree(planted.parent)
        else:
            planted.unlink()
    assert done.returncode == 1
    assert any(broken in row and "BROKEN" in row for row in done.stdout.splitlines()), done.stdout


def test_search_needs_no_exception():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract for contract in contracts if contract["type"] == "layers")
    assert "ignore_imports" not in layers
    imported = grimp.build_graph("lightning_compress", cache_dir=None)
    imported.squash_module("lightning_compress.core")
    imported.squash_module("lightning_compress.search")
    assert imported.find_modules_directly_imported_by("lightning_compress.search") == {"lightning_compress.core"}


def test_no_module_imports_itself_in_a_circle():
    """Imports under TYPE_CHECKING count."""
    graph = grimp.build_graph("lightning_compress", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 200
    TopologicalSorter(imports).prepare()  # a CycleError names the circle


LOAD = """
import sys
import lightning_compress as lc
from torch import nn
net = lc.load(sys.argv[1], nn.Sequential(nn.Conv2d(1, 2, 3)))
slow = {"lightning", "torchmetrics", "torchvision", "scipy", "sklearn", "stable_baselines3", "hydra"}
print(type(net).__name__, sorted(slow & sys.modules.keys()))
"""


def test_loading_a_file_imports_torch_alone(tmp_path):
    net, x = nn.Sequential(nn.Conv2d(1, 2, 3)), torch.randn(2, 1, 8, 8)
    QuantizationAwareTraining({"0": {"weight_bits": 4, "act_bits": 8}}).apply(net, x)
    net(x)
    path = lc.save(net.eval(), tmp_path / "a", example_input=x)
    done = subprocess.run([sys.executable, "-c", LOAD, path], capture_output=True, text=True)
    assert done.stdout == "Sequential []\n", done.stdout + done.stderr
