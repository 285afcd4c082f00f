"""A package of somebody else adds one class of each kind, passes the shipped contracts, and runs through train.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from lightning import Trainer
from omegaconf import OmegaConf

import lightning_compress as lc
from lightning_compress.callbacks.base.callback import knob_titles
from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.base.order import check_order
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.errors import CompressError
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.student import Student
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.surgery import measure
from lightning_compress.surgery.mask import measured
from lightning_compress.surgery.structure import structure_of
from lightning_compress.testing.callbacks import CallbackContract, plan_of
from lightning_compress.testing.costs import CostContract
from lightning_compress.testing.exporters import ExporterContract
from lightning_compress.testing.planners import PlannerContract
from lightning_compress.testing.quantizers import QuantizerContract, WeightFormatContract
from lightning_compress.testing.searchers import SearcherContract
from lightning_compress.testing.toys import PlainModule, ToyData, ToyNet

ROOT = Path(__file__).parent.parent
PLUGIN = ROOT / "tests" / "plugin"
EXAMPLE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", autouse=True)
def importable():
    sys.path.insert(0, str(PLUGIN))
    yield
    sys.path.remove(str(PLUGIN))


def made(group: str, name: str):
    return instantiate(OmegaConf.load(PLUGIN / "acme_compress" / "conf" / "compress" / group / f"{name}.yaml"))


class TestQuantizer(QuantizerContract):
    @pytest.fixture
    def make(self):
        return made("quantizer", "acme_power_of_two")


class TestFormat(WeightFormatContract):
    @pytest.fixture
    def make(self):
        return made("quantizer", "acme_power_of_two")


class TestSearcher(SearcherContract):
    @pytest.fixture
    def make(self):
        make = made("searcher", "acme_halving_walk")
        return lambda problem, seed: make(problem=problem, seed=seed, objective=AccuracyUnderBudget())


class TestCost(CostContract):
    @pytest.fixture
    def cost(self):
        return made("cost", "acme_flash")


class TestExporter(ExporterContract):
    @pytest.fixture
    def exporter(self):
        return made("exporter", "acme_state_dict")


class TestCallback(CallbackContract):
    @pytest.fixture
    def make(self):
        small = made("callback", "acme_small_weights")
        return lambda module: [small.with_plan(plan_of(small, module))]


class TestPlanner(PlannerContract):
    @pytest.fixture
    def module(self):
        torch.manual_seed(0)
        return PlainModule()

    @pytest.fixture
    def net(self, module):
        return module.model

    @pytest.fixture
    def composition(self, net):
        return Composition([made("callback", "acme_small_weights")], net, EXAMPLE)

    @pytest.fixture
    def make_plan(self, module, composition, tmp_path):
        profile = measure.measure(module.model, EXAMPLE)
        run = RunContext(ToyData(), module, profile, EXAMPLE, partial(Trainer, accelerator="cpu"), tmp_path, 0)
        planner = made("planner", "acme_cheapest")
        return lambda folder: planner.make_plan(composition, Student(module), run, folder)

    @pytest.fixture
    def resolve(self, composition):
        return composition.resolve


def test_its_callback_has_a_place_and_a_title():
    small = made("callback", "acme_small_weights")
    with pytest.raises(CompressError, match="SmallWeights must be listed before QuantizationAwareTraining; swap them"):
        check_order([lc.QuantizationAwareTraining(), small])
    assert knob_titles()["acme_share"] == "weights kept in each channel"


@torch.no_grad()
def test_what_it_compresses_is_packed_within_the_predicted_bytes_and_read_without_it(tmp_path):
    torch.manual_seed(0)
    net = ToyNet().eval()
    small = made("callback", "acme_small_weights").with_plan(lc.Plan({"conv1": {"acme_share": 0.5}}))
    bits = lc.Plan({name: {"weight_bits": 4} for name in ("conv1", "conv2", "fc")})
    small.apply(net, EXAMPLE)
    lc.QuantizationAwareTraining(bits, weight_quantizer=made("quantizer", "acme_power_of_two")).apply(net, EXAMPLE)
    file = lc.save(net, tmp_path / "net.safetensors")
    profile = structure_of(net).profile
    assert measured(net, profile) == profile
    assert file.stat().st_size <= PackedBytes()(profile)
    code = f"""
import lightning_compress as lc, torch
from lightning_compress.testing.toys import ToyNet
torch.save(lc.load({str(file)!r}, ToyNet())(torch.load({str(tmp_path / "x.pt")!r})), {str(tmp_path / "y.pt")!r})
"""
    torch.save(EXAMPLE, tmp_path / "x.pt")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), net(EXAMPLE), rtol=1e-4, atol=1e-4)
    again = lc.load(lc.save(lc.load(file, ToyNet()), tmp_path / "again.safetensors"), ToyNet())
    torch.testing.assert_close(again(EXAMPLE), net(EXAMPLE), rtol=1e-4, atol=1e-4)


def test_it_runs_through_train_py(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(PLUGIN)])}
    command = [
        sys.executable, "train.py", "+compress=acme", "epochs=1", "compress.stages.thin.epochs=1",
        "compress.stages.quantize.epochs=1", "compress.stages.quantize.planner.trials=3", "compress.baselines=null",
        f"cache_dir={tmp_path / 'cache'}", f"run_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "acme.pt").is_file()
    assert "acme_flash" in json.dumps(json.loads((tmp_path / "run" / "result.json").read_text()))
    report = (tmp_path / "run" / "report.html").read_text()
    assert "the cheapest that the callbacks allow" in report
    assert "words" in report
