"""The layer by layer stage on the toy network: budget, order, resume, kill -9, packing."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from lightning import Trainer

import lightning_compress as lc
from lightning_compress.app.report.summary import sensitivities_of
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.distillation import KnowledgeDistillation
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.export.load import load
from lightning_compress.export.save import save
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.layerwise import LayerwiseStage
from lightning_compress.pipeline.planners.from_file import FromFile
from lightning_compress.pipeline.planners.sensitivity import Sensitivity
from lightning_compress.pruning.criteria.genetic import Genetic
from lightning_compress.pruning.reconstruction.symmetric import Symmetric
from lightning_compress.search.journal import read
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.surgery import measure
from lightning_compress.surgery.structure import network, structure_of
from lightning_compress.testing.toys import PlainModule, ToyData, toy_data

EXAMPLE = torch.zeros(2, 1, 8, 8)


def stage(**settings) -> LayerwiseStage:
    pruning = ChannelPruning(criterion=Genetic(population=8, generations=4), refit=Symmetric(), batches=2)
    given = {
        "callbacks": {"channels": pruning},
        "planner": Sensitivity(cost=MACs(), budget=0.2, objective=AccuracyUnderBudget(), values=2),
        "distillation": KnowledgeDistillation,
        "steps_between": 6,
        "epochs": 3,
    }
    return LayerwiseStage(**{**given, **settings})


def run_in(folder: Path) -> RunContext:
    torch.manual_seed(0)
    dense = PlainModule()
    trainer = partial(Trainer, accelerator="cpu")
    return RunContext(ToyData(), dense, measure.measure(dense.model, EXAMPLE), EXAMPLE, trainer, folder, 0)


def finish(folder: Path, **settings) -> PlainModule:
    run = run_in(folder)
    return stage(**settings).run("prune", run.dense, run)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, PlainModule]:
    folder = tmp_path_factory.mktemp("layerwise")
    return folder, finish(folder)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_budget_is_met_by_the_real_network(finished):
    folder, module = finished
    dense = run_in(folder).dense_profile
    record = structure_of(network(module))
    thin = measure.measure(module.model, EXAMPLE)
    assert MACs()(thin) == MACs()(record.profile) <= 0.2 * MACs()(dense)
    assert record.plan == Plan.load(folder / "prune" / "plan.yaml")
    assert set(record.plan.layers) == {"stem.0", "conv1"}


def test_what_was_measured_is_written_for_the_report(finished):
    folder, module = finished
    found = sensitivities_of("prune", folder / "prune")
    first, *others = read(folder / "prune" / "sensitivity.sqlite")
    reward = AccuracyUnderBudget()
    assert found.whole == reward(first.score)
    losses = [lost for layer in found.layers for _, lost in layer.losses]
    assert sorted(losses) == sorted(found.whole - reward(entry.score) for entry in others)
    assert {layer.name: layer.chosen for layer in found.layers} == structure_of(network(module)).plan.knob("channels")
    thinned = [path.name.split("-", 1)[1] for path in sorted((folder / "prune/layers").iterdir())]
    assert [layer.name for layer in found.layers] == thinned


def test_the_dense_network_is_not_changed(tmp_path):
    run = run_in(tmp_path)
    before = {k: v.clone() for k, v in run.dense.state_dict().items()}
    stage(steps_between=0, epochs=0).run("prune", run.dense, run)
    assert all(torch.equal(before[k], v) for k, v in run.dense.state_dict().items())
    assert structure_of(run.dense.model) is None


def test_a_second_call_trains_nothing(finished):
    folder, module = finished
    times = {path: path.stat().st_mtime_ns for path in (folder / "prune").rglob("*.ckpt")}
    assert len(times) == 3  # two layers, and the end
    assert same(finish(folder), module)
    assert times == {path: path.stat().st_mtime_ns for path in (folder / "prune").rglob("*.ckpt")}


def test_another_plan_is_applied_to_the_dense_network_again(tmp_path):
    def planned(folder: Path, ratio: float) -> PlainModule:
        run, plan = run_in(folder), Plan({"conv1": {"channels": ratio}, "stem.0": {"channels": 0.5}})
        return stage(planner=FromFile(plan), steps_between=1, epochs=0).run("prune", run.dense, run)

    planned(tmp_path / "both", 0.25)
    found = [planned(tmp_path / name, 0.5) for name in ("both", "fresh")]
    assert structure_of(network(found[0])).plan.get("conv1", "channels") == 0.5
    assert same(*found)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_stopped_after_a_layer_it_goes_on_to_the_same_tensors(finished, tmp_path, layers):
    folder, module = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "prune" / "final.ckpt").unlink()
    for later in sorted((tmp_path / "prune" / "layers").iterdir())[layers:]:
        shutil.rmtree(later)
    assert same(finish(tmp_path), module)


def test_killed_in_a_layer_it_goes_on_to_the_same_tensors(finished, tmp_path):
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n" + (
        f"import torch; torch.set_num_threads(1)\n"
        f"from test_layerwise import finish; from pathlib import Path; finish(Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list((tmp_path / "prune" / "layers").glob("001-*/last.ckpt")):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "prune" / "final.ckpt").exists()
    assert same(finish(tmp_path), finished[1])


def test_packed_and_loaded_it_computes_the_same(finished, tmp_path):
    module = finished[1].eval()
    save(module, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors", PlainModule())
    x = toy_data(0)[1].dataset[:4][0]
    torch.testing.assert_close(loaded(x), module(x), rtol=1e-4, atol=1e-5)
    assert lc.inspect(tmp_path / "model.safetensors").plan == structure_of(network(module)).plan


def test_a_stage_after_it_adds_bits_to_the_thin_network(finished):
    module = copy.deepcopy(finished[1])
    plan = Plan({"conv1": {"weight_bits": 4}})
    QuantizationAwareTraining(plan).apply(module.model, EXAMPLE)
    assert structure_of(module.model).plan.get("conv1", "weight_bits") == 4
    assert structure_of(module.model).plan.get("conv1", "channels") < 1


def test_a_plan_takes_the_place_of_the_measurement(tmp_path):
    run, plan = run_in(tmp_path), Plan({"conv1": {"channels": 0.25}})
    module = stage(steps_between=0, epochs=0).with_plan(plan).run("prune", run.dense, run)
    assert module.model.conv1.out_channels == 4
    assert not (tmp_path / "prune" / "sensitivity.sqlite").exists()


def test_a_plan_file_in_the_folder_of_a_measurement_is_not_said_to_be_made_from_it(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    run, plan = run_in(tmp_path), Plan({"conv1": {"channels": 0.25}})
    stage(steps_between=0, epochs=0).with_plan(plan).run("prune", run.dense, run)
    assert sensitivities_of("prune", tmp_path / "prune") is None


def test_one_callback_and_no_more(tmp_path):
    run = run_in(tmp_path)
    both = {"channels": ChannelPruning(), "bits": QuantizationAwareTraining()}
    with pytest.raises(CompressError, match=r"stage prune: .* one callback, got \['bits', 'channels'\]"):
        stage(callbacks=both).run("prune", run.dense, run)


def test_the_option_makes_the_stage():
    with initialize_config_module("lightning_compress.conf", version_base="1.3"):
        config = compose(overrides=["+compress=ga_channel", "compress.stages.prune.planner.values=5"])
    made = instantiate(config.compress.stages, _convert_="object")["prune"]
    assert isinstance(made, LayerwiseStage)
    assert isinstance(made.planner, Sensitivity)
    assert made.planner.values == 5
    pruning = made.callbacks["channels"]
    assert (pruning.criterion, pruning.refit) == (Genetic(), Symmetric())
