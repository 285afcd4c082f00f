"""Whole-program tests: ``train.py`` as a user runs it, on real data, in its own process."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from rich.console import Console

import lightning_compress as lc
import lightning_compress.conf
from lightning_compress.app import main
from lightning_compress.vision.models.resnet_cifar import resnet8

ROOT = Path(__file__).parent.parent
ONE_THREAD = {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
SHORT = ["epochs=6", "compress.stages.quantize.planner.trials=8", "compress.stages.quantize.epochs=3"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def command(*overrides: str, cache: Path, folder: Path) -> list[str]:
    return [sys.executable, "train.py", *overrides, f"cache_dir={cache}", f"run_dir={folder}"]


def run(*overrides: str, cache: Path, folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, **ONE_THREAD}
    line = command(*overrides, cache=cache, folder=folder)
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory) -> Path:
    """Run a short search for bits once."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = run("+compress=drl_quant", *SHORT, cache=cache, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_main_job_meets_its_budget_with_a_file_that_loads(finished):
    result = json.loads((finished / "result.json").read_text())
    packed = finished / "model.safetensors"
    assert result["compressed"]["bytes"] == packed.stat().st_size
    assert packed.stat().st_size <= 0.12 * 1.02 * result["dense"]["bytes"]
    assert result["compressed"]["accuracy"] > 0.9
    net = lc.load(packed, resnet8(in_channels=1))
    assert not net.training
    assert lc.inspect(packed).plan == lc.Plan.load(finished / "plan.yaml")
    page = (finished / "report.html").read_text()
    assert "<svg" in page
    assert "It started from the better of the plans that need no search, by their rewards: closed form" in page
    assert (finished / "quantize" / "policy.safetensors").is_file()


def test_the_same_command_again_only_reads_what_is_there(finished, cache):
    before = (finished / "quantize" / "final.ckpt").stat().st_mtime_ns
    again = run("+compress=drl_quant", *SHORT, cache=cache, folder=finished)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (finished / "quantize" / "final.ckpt").stat().st_mtime_ns == before
    assert f"dense network from cache {cache}/dense-" in again.stdout


def test_a_finished_run_is_packed_again_with_another_coder(finished, cache, tmp_path):
    shutil.copytree(finished, tmp_path / "plain")
    again = run("+compress=drl_quant", "+compress/exporter=packed", *SHORT, cache=cache, folder=tmp_path / "plain")
    assert again.returncode == 0, again.stdout + again.stderr
    coded, plain = (json.loads((f / "result.json").read_text())["compressed"] for f in (finished, tmp_path / "plain"))
    assert coded["accuracy"] == plain["accuracy"]
    assert plain["bytes"] == (tmp_path / "plain" / "model.safetensors").stat().st_size > coded["bytes"]


def test_an_interrupted_and_killed_search_goes_on_and_ends_with_the_same_plan(finished, cache, tmp_path):
    folder = tmp_path / "killed"
    journal = folder / "quantize" / "trials.sqlite"
    line, environment = command("+compress=drl_quant", *SHORT, cache=cache, folder=folder), {**os.environ, **ONE_THREAD}
    for number, moment in ((signal.SIGTERM, 1), (signal.SIGKILL, 3)):
        process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=-1, stderr=-1, text=True)
        while process.poll() is None and trials(journal) < moment:
            pass
        process.send_signal(number)
        printed = "".join(process.communicate())
        assert process.returncode == {signal.SIGTERM: 143}.get(number, -number), printed
        assert ("interrupted by SIGTERM; give the same command again" in printed) == (number == signal.SIGTERM)
        assert "Traceback" not in printed
    killed_at = rows(journal)
    assert 3 <= len(killed_at) < 8
    again = run("+compress=drl_quant", *SHORT, cache=cache, folder=folder)
    assert again.returncode == 0, again.stdout + again.stderr
    assert rows(journal)[: len(killed_at)] == killed_at  # seconds included: nothing was evaluated again
    assert (folder / "plan.yaml").read_text() == (finished / "plan.yaml").read_text()


FULL = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # to a program, a file too large is a full disk
sys.argv = sys.argv[1:]
runpy.run_path("train.py", run_name="__main__")
"""


def test_a_full_disk_is_told_in_a_sentence(tmp_path):
    line = command("+compress=prune", "epochs=2", cache=tmp_path / "cache", folder=tmp_path / "run")
    line = [sys.executable, "-c", FULL, *line[1:]]
    done = subprocess.run(line, cwd=ROOT, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("loading torch and lightning ...\n")
    assert "No CUDA runtime" not in done.stderr
    assert "cannot be written" in done.stderr
    assert "Make room on the disk, and give the same command again" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def trials(journal: Path) -> int:
    try:
        return len(rows(journal))
    except sqlite3.OperationalError:  # not made yet
        return 0


def rows(journal: Path) -> list[tuple]:
    with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as db:
        return db.execute("SELECT number, indices, score, seconds FROM trials ORDER BY number").fetchall()


WAYS = sorted(f.stem for f in (Path(lightning_compress.conf.__file__).parent / "compress").glob("*.yaml"))
SMALL = {
    "epochs": 2, "steps_between": 1, "values": 2, "trials": 3, "finetune_steps": 1, "recalibration_batches": 1,
    "validation_batches": 1,
}  # fmt: skip


@pytest.mark.parametrize("way", [way for way in WAYS if way != "drl_quant"])
def test_every_other_way_runs_and_writes_its_files(way, cache, tmp_path):
    """Run a way in this process, from the configuration on: starting another takes longer than the way itself."""
    if way == "mcu":
        pytest.importorskip("ai_edge_litert", reason="the runtime is not installed")
    given = [f"+compress={way}", "epochs=6", f"cache_dir={cache}", f"run_dir={tmp_path}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", [*given, f"hydra.runtime.output_dir={tmp_path}"], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    cfg = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    for stage in cfg.compress.stages.values():
        for section in (stage, stage.get("planner") or {}, cfg.compress.get("evaluation") or {}):
            section.update({key: value for key, value in SMALL.items() if key in section})
    main.run(cfg, Console(file=StringIO()))
    assert "</html>" in (tmp_path / "report.html").read_text()
    result = json.loads((tmp_path / "result.json").read_text())
    stages = cfg.compress.stages.values()
    planners = [stage.planner for stage in stages if "planner" in stage]
    limits = [planner.budget for planner in planners if "MACs" in planner.get("cost", {}).get("_target_", "")]
    assert all(result["compressed"]["macs"] <= limit * result["dense"]["macs"] for limit in limits)
    if way not in ("distill", "variational"):  # so short, noise drops nothing
        assert result["compressed"]["bytes"] < result["dense"]["bytes"]
    if way == "genecai_mixed":
        assert result["compressed"]["bytes"] <= 0.1 * 1.02 * result["dense"]["bytes"]
        # The closed form may keep all weights of the channels that stay.
        assert {"channels", "weight_bits"} <= lc.Plan.load(tmp_path / "plan.yaml").knobs
    if "quantize" in cfg.compress.stages:
        share = 0.3 if way in ("int8", "mcu") else 0.2  # 8 bits are a quarter of 32
        assert result["compressed"]["bytes"] < share * result["dense"]["bytes"]


def test_how_well_scores_rank_plans_is_measured_and_said(cache, tmp_path):
    stage = "compress.stages.prune"
    short = ["epochs=6", f"{stage}.epochs=1", f"{stage}.planner.trials=4", "compress.baselines=null"]
    short += ["compress.correlation.plans=3", "compress.correlation.finetune_steps=4"]
    done = run("+compress=drl_prune", "+compress/correlation=finetuned", *short, cache=cache, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(rows(tmp_path / "prune" / "correlation.sqlite")) == 3
    sentence = "prune: Kendall's tau of the search's scores with those after 4 steps of fine-tuning is"
    assert sentence in " ".join(done.stdout.split())
    assert "after 4 steps of fine-tuning is" in (tmp_path / "report.html").read_text()


def test_a_plan_file_takes_the_place_of_the_search(finished, cache, tmp_path):
    plan = finished / "plan.yaml"
    done = run("+compress=quant", f"plan={plan}", "epochs=6", "compress.stages.quantize.epochs=1", cache=cache,
               folder=tmp_path / "run")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert lc.Plan.load(tmp_path / "run" / "plan.yaml") == lc.Plan.load(plan)


def test_multirun_over_an_alias_leaves_one_summary_table(cache, tmp_path):
    environment = {**os.environ, **ONE_THREAD}
    short = ["budget=0.1,0.2,0.001", "finetune.epochs=1", "epochs=6", f"cache_dir={cache}", f"sweep_dir={tmp_path}"]
    line = [sys.executable, "train.py", "-m", "+compress=knapsack_quant", *short]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    with (tmp_path / "summary.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["status"] for row in table] == ["completed", "completed", "failed"]
    assert "smallest feasible one is" in table[2]["error"]
    assert "smallest feasible one is" in done.stdout.partition("─┘")[2]  # below the table of all jobs
    assert int(table[0]["bytes"]) < int(table[1]["bytes"])
    assert ["budget=0.1," in table[0]["job"], "budget=0.2," in table[1]["job"]] == [True, True]
    assert [any(f"+budget-{value}+" in path.name for path in tmp_path.iterdir()) for value in (0.1, 0.2)] == [
        True,
        True,
    ]


@pytest.mark.parametrize(("overrides", "message"), [
    (["+compress=drl_quant", "compress.stages.quantize.planner.budget=0.01"], "smallest feasible one is"),
    (["+compress=drl_quant", "budget=-0.1"], "budget must be a share in (0, 1] of what the dense network costs"),
    (["+compress=drl_quant", "finetune.epochs=-1"], "stage quantize: epochs must be 0 or more, got -1"),
    (["recipe=digits/resnet8-drl_quant", "budget=0.5"], "budget=0.5: it would have no effect, for a plan is given"),
    (["+compress=quant", "plan=nowhere.yaml"], "there is no file 'nowhere.yaml'"),
    (["recipe=nowhere"], "recipe: there is no"),
    ([], "+compress=drl_quant"),
    (["+compress=quant", "data=npz", "data.path=nowhere.npz"], "there is no file 'nowhere.npz'"),
    (["+compress=quant", "data=npz"], "error: configuration: Missing mandatory value: data.path"),
    (["+compress=drl_quant", "metric=test_accuracy"], "not 'test_accuracy'; did you mean 'test_acc'?; set metric"),
    (["+compress=quant", "+data.sise=8"], "__init__() got an unexpected keyword argument 'sise'"),
    (["+compress=prune", "compress/refit=null"], "cannot be null; leave it out with '~compress/refit'"),
    (["+compress=joint", "compress.stages.joint.callbacks.joint.limits=[2.0]"], "error: JointSparsityQuantization:"),
])  # fmt: skip
def test_bad_input_ends_with_one_sentence_and_a_status(overrides, message, cache, tmp_path):
    done = run(*overrides, "epochs=6", cache=cache, folder=tmp_path / "run")
    assert done.returncode == 1
    assert message in " ".join(done.stderr.split())
    assert "error" not in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def run_here(*given: str, folder: Path) -> None:
    """Run in this process, from the configuration on."""
    given = (*given, f"run_dir={folder}", f"hydra.runtime.output_dir={folder}")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", list(given), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    main.run(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), Console(file=StringIO()))


@pytest.mark.parametrize(("override", "message"), [
    *((f"seed={seed}", "seed must be (a whole number, )?0 or more, below 4294967296, got") for seed in (
        "abc", -1, 99999999999, 1.5, "'1'", "null", "true")),
    *((f"threads={threads}", "threads must be (a whole number, )?1 or more, got") for threads in (0, -1, "abc", 1.5)),
    *((f"epochs={epochs}", "epochs must be (a whole number, )?0 or more, got") for epochs in (-1, "abc", 1.5)),
    ("data.batch_size=0", "data: batch_size must be 1 or more, got 0"),
    ("data.shift=-3", "data: shift must be 0 or more, got -3"),
    ("+trainer.max_epochs=3", "max_epochs=3 would have no effect, .*set epochs= .* finetune.epochs= "),
    ("+trainer.logger={a: 1}", "its logger would have no effect, .*set logger="),
    ("+trainer.limit_test_batches=0", "limit_test_batches=0 leaves no test data"),
    ("+trainer.max_step=3", "trainer: got an unexpected keyword argument 'max_step'; did you mean 'max_steps'"),
    ("+compress.budgte=0.3", "no stage reads compress.budgte; did you mean 'budget'"),
    ("cache_dir=README.md", "cannot write to 'README.md/dense-.*': Not a directory; choose another cache_dir="),
    ("+bugdet=0.3", r"\+bugdet=0.3: there is no setting 'bugdet'; did you mean 'budget'"),
])  # fmt: skip
def test_settings_that_cannot_be_are_told_before_anything_is_trained(override, message, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    given = [override] if override.startswith("cache_dir") else [override, f"cache_dir={cache / 'none'}"]
    with pytest.raises((lc.CompressError, InstantiationException)) as raised:
        run_here("+compress=plan_quant", *given, folder=tmp_path)
    told = raised.value if isinstance(raised.value, lc.CompressError) else raised.value.__cause__
    assert isinstance(told, lc.CompressError)
    assert re.search(message, str(told))
    assert not list((cache / "none").rglob("*.ckpt"))


def test_a_key_that_another_setting_refers_to_may_be_added(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(lc.CompressError, match="below 4294967296, got -5"):  # it came so far
        run_here("+compress=plan_quant", "+mine=-5", "seed=${mine}", folder=tmp_path)


def test_the_dense_network_is_trained_anew_when_the_data_file_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    rng = np.random.default_rng(0)
    sizes = {"data.in_channels": 1, "data.image_size": 8, "data.batch_size": 16, "epochs": 1, "finetune.epochs": 0}
    sizes |= {"data.path": tmp_path / "d.npz", "cache_dir": tmp_path / "cache"}
    given = [f"{key}={value}" for key, value in sizes.items()]
    networks = []
    for changed in (True, True, False):
        if changed:
            images = {f"{part}_images": rng.integers(0, 256, (32, 8, 8), np.uint8) for part in ("train", "val", "test")}
            labels = {f"{part}_labels": np.arange(32) % 10 for part in ("train", "val", "test")}
            np.savez(tmp_path / "d.npz", **images, **labels)
        run_here("+compress=distill", "data=npz", *given, folder=tmp_path / "run")
        networks.append(len(list((tmp_path / "cache").glob("dense-*/final.ckpt"))))
    assert networks == [1, 2, 2]


def test_a_run_folder_in_use_is_refused(finished, cache):
    from filelock import FileLock

    with FileLock(finished / ".lock"):
        done = run("+compress=drl_quant", *SHORT, cache=cache, folder=finished)
    assert done.returncode == 1
    assert "another process is working in" in done.stderr


def test_a_run_folder_that_cannot_be_made_is_named(cache, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run("+compress=quant", "epochs=6", cache=cache, folder=tmp_path / "file" / "run")
    assert done.returncode == 1
    assert f"error: cannot write to '{tmp_path}/file/run': Not a directory; choose another run_dir=" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_help_lists_the_ways():
    done = subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    for way in ("drl_quant", "drl_prune", "drl_two_stage", "ga_channel", "quant", "prune", "distill"):
        assert f"+compress={way}" in done.stdout


def test_another_hydra_application_gets_our_options(tmp_path):
    """From the search-path plugin alone: the application imports nothing of ours."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("lr: 1\n")
    (tmp_path / "app.py").write_text(
        "import hydra\n"
        "@hydra.main(version_base='1.3', config_path='conf', config_name='config')\n"
        "def main(cfg):\n"
        "    print(cfg.compress.stages.quantize.callbacks.quantization._target_)\n"
        "main()\n"
    )
    line = [sys.executable, "app.py", "+compress=drl_quant"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "lightning_compress.callbacks.quantization.QuantizationAwareTraining"
