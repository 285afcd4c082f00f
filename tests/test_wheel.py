"""The installed wheel: what it holds, and that its command does what ``train.py`` does in a clone."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    line = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Return the folder of an installation without dependencies, which are those of the tests."""
    folder = tmp_path_factory.mktemp("site")
    line = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(folder)]
    subprocess.run([*line, str(wheel)], check=True, capture_output=True, timeout=120)
    return folder


def command(site: Path, folder: Path, *arguments: str, timeout: int = 300) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, str(site / "bin" / "lightning-compress"), *arguments]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def finished(installed, tmp_path_factory) -> Path:
    """Return a folder that holds the user's own model and its configuration, and a multirun of it with a recipe."""
    folder = tmp_path_factory.mktemp("empty")
    (folder / "mine.py").write_text(
        "from lightning_compress.vision.models.classifier import ImageClassifier\n"
        "class Mine(ImageClassifier):\n"
        "    pass\n"
    )
    config = (ROOT / "conf" / "model" / "resnet8.yaml").read_text()
    (folder / "own" / "model").mkdir(parents=True)
    (folder / "own" / "model" / "mine.yaml").write_text(
        config.replace("lightning_compress.vision.models.classifier.ImageClassifier", "mine.Mine")
    )
    done = command(
        installed, folder, "run", "-m", "--config-dir", "own", "recipe=digits/resnet8-drl_quant", "model=mine",
        "model.net.width=4", "seed=0,1", "epochs=1",
        "compress.stages.quantize.epochs=1", "sweep_dir=sweep",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_wheel_holds_the_application_its_license_and_its_types(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    shipped = {
        f"lightning_compress/app/{f.relative_to(ROOT)}" for d in ("conf", "recipes") for f in (ROOT / d).rglob("*.yaml")
    }
    code = {str(f.relative_to(ROOT)) for f in (ROOT / "lightning_compress").rglob("*") if f.suffix in (".py", ".yaml")}
    assert len(shipped) > 20
    assert shipped | code | {"lightning_compress/py.typed"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/", "conf/")) for name in names)


def test_the_citation_has_the_version_and_the_license_of_the_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])


@pytest.mark.parametrize("way", ["drl_quant", "genecai_mixed"])
def test_the_installed_command_has_the_configuration_of_the_clone(way, installed, tmp_path):
    arguments = [f"+compress={way}", "--cfg", "job"]
    done = command(installed, tmp_path, "run", *arguments)
    line = [sys.executable, "train.py", *arguments]
    clone = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == clone.returncode == 0, done.stderr + clone.stderr
    assert done.stdout == clone.stdout
    assert "stages:" in done.stdout


def test_a_multirun_in_an_empty_folder_leaves_one_table(finished):
    with (finished / "sweep" / "summary.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["status"] for row in table] == ["completed", "completed"]
    assert len({row["bytes"] for row in table}) == 1  # the recipe's plan
    config = yaml.safe_load(next(finished.glob("sweep/*/hydra/config.yaml")).read_text())
    assert config["model"]["_target_"] == "mine.Mine"
    assert config["compress"]["stages"]["quantize"]["epochs"] == 1  # beside a recipe


def test_the_report_shows_the_command_that_was_typed(finished):
    page = next(finished.glob("sweep/*/report.html")).read_text()
    assert "lightning-compress run -m --config-dir own recipe=digits/resnet8-drl_quant model=mine" in page


def test_runs_are_compared(installed, finished):
    runs = sorted(f.parent for f in finished.glob("sweep/*/result.json"))
    assert len(runs) == 2
    done = command(installed, finished, "report", *map(str, runs), "--html", "both.html")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bits of the" in done.stdout
    assert "<table" in (finished / "both.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--help"], "report"),
        (["run", "--help"], "lightning-compress run +compress=drl_quant"),
        (["report", "--help"], "--html"),
        (["layers", "--help"], "--config-dir"),
        (["export", "--help"], "--calibrate"),
    ],
)
def test_help_imports_no_torch(arguments, said, installed, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('torch was imported')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(installed)])}
    line = [sys.executable, str(installed / "bin" / "lightning-compress"), *arguments]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout
