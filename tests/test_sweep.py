"""The run's folder is tried before Hydra makes it; a multirun's jobs stand in one table."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf

import lightning_compress.conf  # noqa: F401  makes ${slug:...} known, as train.py does
from lightning_compress.app.hydra_callbacks import CheckFolder, SweepSummary
from lightning_compress.pipeline.figures import declare, to_dicts

CONF = Path(__file__).parent.parent / "conf"


@pytest.fixture(autouse=True)
def _no_other_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)


def composed(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", ["+compress=quant", *overrides], return_hydra_config=True)


def test_a_folder_that_is_named_after_the_command(tmp_path):
    CheckFolder().on_run_start(composed("seed=3"))
    assert (tmp_path / "runs" / "compress-quant+seed-3").is_dir()


def test_a_folder_that_cannot_be_written_ends_the_process_with_a_sentence(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(SystemExit, match="error: cannot write to 'runs/compress-quant': Not a directory; choose "):
        CheckFolder().on_run_start(composed())


FIGURES = {
    "accuracy": 0.9778, "bytes": 123_456, "weight_bits": 8000, "macs": 40_123_456, "parameters": 250,
    "activation_bytes": 4096,
}  # fmt: skip


def swept(folder: Path, *jobs: list[str], failed: tuple[int, ...] = (), accuracy: float = 0.9778) -> None:
    summary = SweepSummary()
    figures = {**FIGURES, "accuracy": accuracy}
    for number, overrides in enumerate(jobs):
        job = folder / overrides[-1].replace("/", "_")
        config = {
            "hydra": {"mode": RunMode.MULTIRUN, "sweep": {"dir": str(folder)}, "runtime": {"output_dir": str(job)}}
        }
        result = {
            "figures": to_dicts(declare("test_acc", [])),
            "dense": FIGURES,
            "compressed": figures,
            "seconds": 12.3,
            "metric": "test_acc",
        }
        if number in failed:
            result = {"error": f"budget {number}: it cannot be met"}
        summary.on_job_end(
            OmegaConf.create(config), JobReturn(overrides, status=JobStatus.COMPLETED, _return_value=result)
        )
    summary.on_multirun_end(OmegaConf.create(config))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_printed_table_has_what_differs_and_fits_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    same = ["+compress=attention", "epochs=1"]
    jobs = [[*same, f"compress.stages.remove.distillation.layers={layers}"] for layers in ("[layer1]", "[/b]", "[red]")]
    with pytest.raises(SystemExit, match="1"):
        swept(tmp_path, *jobs, failed=(1,))
    printed = capsys.readouterr().out
    joined = "".join(line.split("│")[1].strip() for line in printed.splitlines() if line.startswith("│"))
    for job in jobs:
        assert job[-1] in joined
    assert "epochs" not in printed
    for text in ("97.78", "123,456", "40,123,456", "12", "failed"):
        assert text in printed.split("summary.csv")[0]
    table = rows(tmp_path)
    assert [row["job"] for row in table] == [",".join(job) for job in jobs]
    assert [row["activation_bytes"] for row in table] == ["4096", "", "4096"]
    assert [row["error"] for row in table] == ["", "budget 1: it cannot be met", ""]
    assert "budget 1: it cannot be met" in printed
    assert max(map(len, printed.replace(str(tmp_path), "").splitlines())) <= 80


def test_a_multirun_of_one_job_names_it(tmp_path, capsys):
    swept(tmp_path, ["+compress=quant"])
    assert "+compress=quant" in capsys.readouterr().out


def test_a_second_sweep_keeps_the_rows_of_other_jobs(tmp_path):
    swept(tmp_path, ["seed=0"], ["seed=1"], accuracy=0.5)
    swept(tmp_path, ["seed=1"], ["seed=2"], accuracy=0.75)
    found = {row["folder"]: float(row["accuracy"]) for row in rows(tmp_path)}
    assert found == {"seed=0": 0.5, "seed=1": 0.75, "seed=2": 0.75}
    assert len(rows(tmp_path)) == 3


def test_a_job_that_raised_has_its_reason(tmp_path):
    config = {"hydra": {"mode": RunMode.MULTIRUN, "sweep": {"dir": str(tmp_path)}, "runtime": {"output_dir": "a"}}}
    raised = JobReturn(["seed=1"], status=JobStatus.FAILED, _return_value=ValueError("no room"))
    SweepSummary().on_job_end(OmegaConf.create(config), raised)
    assert [(row["status"], row["error"]) for row in rows(tmp_path)] == [("failed", "ValueError: no room")]
