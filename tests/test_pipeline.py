"""A whole run: what it needs is missed at its beginning, and what it says of itself is of this run alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from torch.utils.data import DataLoader

from lightning_compress.app.report import compare
from lightning_compress.app.report.summary import search_of
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.export.exporter import Exporter, ExportReport
from lightning_compress.export.onnx.exporter import Onnx
from lightning_compress.pipeline.compress import compress
from lightning_compress.pipeline.evaluation import Evaluation
from lightning_compress.pipeline.layerwise import LayerwiseStage
from lightning_compress.pipeline.planners.limit import Limit
from lightning_compress.pipeline.planners.planner import Planner
from lightning_compress.pipeline.planners.search import Search
from lightning_compress.pipeline.planners.sensitivity import Sensitivity
from lightning_compress.pipeline.planners.uniform import Uniform
from lightning_compress.pipeline.result import Result
from lightning_compress.pipeline.stage import Stage
from lightning_compress.quantization.placements.tensors import Tensors
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.random import Random
from lightning_compress.testing.toys import FullData, FullModule, PlainModule, ToyData, ToyNet

SECTION = {
    "objective": {"_target_": "lightning_compress.search.objectives.objective.AccuracyUnderBudget"},
    "cost": {"_target_": "lightning_compress.core.costs.macs.MACs"},
}
PLAN = Plan({"conv1": {"channels": 0.5}})


BUDGET = {"cost": MACs(), "budget": 0.7, "objective": AccuracyUnderBudget()}


def pruning(planner: Planner | None) -> Stage:
    return Stage({"channels": ChannelPruning()}, planner, epochs=0)


def searching(evaluation: Evaluation | None = None, **settings: Any) -> Stage:
    given = {"searcher": Random, "trials": 2, "evaluation": evaluation or Evaluation()}
    return pruning(Search(**{**BUDGET, **given, **settings}))


def layerwise(steps_between: int = 20, **settings: Any) -> LayerwiseStage:
    planner = Sensitivity(**BUDGET, **settings)
    return LayerwiseStage({"channels": ChannelPruning()}, planner, steps_between=steps_between)


def uniform(numbers: Mapping[str, float] = MappingProxyType({"channels": 0.5})) -> Stage:
    return pruning(Uniform(numbers))


def run(folder: Path, plan: Plan | None = None, trainer: Mapping[str, Any] = MappingProxyType({}), **stages) -> Result:
    torch.manual_seed(0)
    make_trainer = partial(Trainer, accelerator="cpu", **trainer)
    return compress(FullModule(), FullData(), stages, folder=folder, make_trainer=make_trainer, plan=plan)


@pytest.mark.parametrize(
    "after", [{"plan": PLAN, "prune": searching()}, {"prune": uniform()}, {"prune": Stage(epochs=0)}]
)
def test_a_search_of_an_earlier_run_in_the_folder_is_not_said_to_be_of_this_one(tmp_path, after):
    assert run(tmp_path, prune=searching()).searches["prune"]["searcher"] == "Random"
    assert search_of("prune", tmp_path / "prune", SECTION) is not None
    assert compare.read_run(tmp_path)["searches"].keys() == {"prune"}
    assert run(tmp_path, **after).searches == compare.read_run(tmp_path)["searches"] == {}
    assert search_of("prune", tmp_path / "prune", SECTION) is None


def test_a_search_of_a_stage_that_is_gone_is_not_said_to_be_of_this_run(tmp_path):
    run(tmp_path, prune=searching())
    run(tmp_path, other=uniform())
    assert compare.read_run(tmp_path)["searches"] == {}


def test_a_search_that_is_repeated_says_the_same_again(tmp_path):
    found = [run(tmp_path, prune=searching()).searches for _ in range(2)]
    assert found[0] == found[1] != {}


@pytest.mark.parametrize(
    "trainer", [{"enable_progress_bar": False}, {"callbacks": [TQDMProgressBar(), ModelCheckpoint()]}]
)
def test_a_run_shows_and_keeps_what_the_user_s_trainer_says(tmp_path, trainer):
    assert run(tmp_path, trainer=trainer, prune=searching()).compressed.accuracy > 0


class InSingleOnly(FullModule):
    """Refuses to be tested in half or double precision."""

    def test_step(self, batch, batch_idx):
        assert {parameter.dtype for parameter in self.parameters()} == {torch.float32}
        super().test_step(batch, batch_idx)


@pytest.mark.parametrize("own", [torch.float32, None], ids=["single", "own"])
@pytest.mark.parametrize(("precision", "kind"), [("bf16-true", torch.bfloat16), ("64-true", torch.float64)])
def test_a_trainer_of_another_precision_is_for_trainings_alone(tmp_path, precision, kind, own):
    torch.manual_seed(0)
    module = InSingleOnly().to(own or kind)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    stages = {"prune": searching(Evaluation(finetune_steps=1)), "more": Stage(epochs=1)}
    make_trainer = partial(Trainer, accelerator="cpu", precision=precision)
    found = [
        compress(module, FullData(), stages, folder=tmp_path, make_trainer=make_trainer, plan=None) for _ in range(2)
    ]
    assert dict(found[0].compressed) == dict(found[1].compressed)
    after = module.state_dict()
    assert all(value.dtype == before[n].dtype and torch.equal(value, before[n]) for n, value in after.items())
    assert found[0].module is not None
    assert {value.dtype for value in found[0].module.parameters()} == {torch.float32}


class InPercent(FullModule):
    """Logs an accuracy in percent."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self.step = step

    def log(self, name, value, **settings):
        super().log(name, 100 if name == self.step else value, **settings)


@pytest.mark.parametrize("name", ["test_acc", "val_acc"])
def test_an_accuracy_that_is_no_share_is_refused_at_once(tmp_path, name):
    with pytest.raises(CompressError, match=f"InPercent logs {name} 100, which must be a share from 0 to 1"):
        compress(InPercent(name), FullData(), {"prune": searching()}, folder=tmp_path)


class ByLoader(FullModule):
    """Validates on two loaders; only the first says how good the network is."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        right = (self(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("val_acc" if dataloader_idx == 0 else "other_acc", right, add_dataloader_idx=False)


class TwoLoaders(FullData):
    """The second one has no images of the task."""

    def val_dataloader(self):
        good = super().val_dataloader()
        return [good, DataLoader([(torch.zeros(1, 8, 8), 0)] * 8, 4)]

    def test_dataloader(self):
        return super().val_dataloader()


def test_several_validation_loaders_are_those_that_the_module_sees_in_a_training(tmp_path):
    found = []
    for module, data in ((ByLoader, TwoLoaders()), (FullModule, FullData())):
        torch.manual_seed(0)
        stages = {"prune": searching(objective=AccuracyUnderBudget(weight=0))}
        result = compress(module(), data, stages, folder=tmp_path / module.__name__)
        found.append(result.searches["prune"]["best"])
    assert found[0] == found[1]


def test_a_trainer_that_no_training_can_have_is_refused_at_once(tmp_path):
    with pytest.raises(CompressError, match="barebones=True"):
        run(tmp_path / "run", trainer={"barebones": True}, prune=searching())
    assert not (tmp_path / "run").exists()


class Untrained(FullModule):
    """Without an optimizer."""

    configure_optimizers = LightningModule.configure_optimizers


@pytest.mark.parametrize(
    ("module", "data", "words"),
    [
        (PlainModule(), FullData(), "PlainModule has no test_step; the network is measured before and after"),
        (FullModule(), ToyData(), "ToyData has no test_dataloader; the network is measured on test data"),
        (Untrained(), FullData(), "Untrained has no configure_optimizers; the network is trained after compression"),
    ],
)
def test_what_the_end_of_a_run_needs_is_missed_at_its_beginning(tmp_path, module, data, words):
    with pytest.raises(CompressError, match=words):
        compress(module, data, {"prune": searching()}, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", [ToyNet(), FullModule])
def test_what_is_no_module_is_refused(tmp_path, given):
    with pytest.raises(CompressError, match=r"takes a LightningModule .* got (ToyNet|FullModule), so wrap it in one"):
        compress(given, FullData(), {"prune": searching()}, folder=tmp_path / "run")


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (searching(trials=0), "trials must be 1 or more, got 0"),
        (searching(in_flight=0), "in_flight must be 1 or more, got 0"),
        (searching(trials=2.5), "trials must be a whole number, 1 or more, got 2.5"),
        (searching(budget=-0.1), r"budget must be a share in \(0, 1\] .* a text such as '100,000 MACs', got -0.1"),
        (searching(limits={"x": Limit(MACs(), "3 kg")}), "budget must be a share .* got '3 kg'"),
        (Stage(epochs=-1), "epochs must be 0 or more, got -1"),
        (Stage(attributes={"lr": -0.1}), "lr must be a finite number, 0 or more, or 'auto', got -0.1"),
        (Stage(attributes={"lr": float("inf")}), "lr must be a finite number, 0 or more, or 'auto', got inf"),
        (Stage(attributes={"lr": "fast"}), "lr must be a finite number, 0 or more, or 'auto', got 'fast'"),
        (searching(Evaluation(validation_batches=0)), "validation_batches must be 1 or more, got 0"),
        (searching(Evaluation(finetune_steps=-1)), "finetune_steps must be 0 or more, got -1"),
        (searching(Evaluation(recalibration_batches=-1)), "recalibration_batches must be 0 or more, got -1"),
        (layerwise(evaluation=Evaluation(validation_batches=0)), "validation_batches must be 1 or more, got 0"),
        (layerwise(values=0), "values must be 1 or more, got 0"),
        (layerwise(steps_between=-1), "steps_between must be 0 or more, got -1"),
        (searching(searcher=None), "searcher is null, which a search needs"),
        (pruning(None), "it has callbacks and no planner; give it one"),
        (uniform({"chanels": 0.5}), "Uniform sets 'chanels', which no callback .* did you mean 'channels'"),
    ],
)
def test_numbers_of_a_later_stage_are_checked_before_the_first(tmp_path, stage, words):
    with pytest.raises(CompressError, match=f"stage last: {words}"):
        run(tmp_path / "run", first=searching(), last=stage)
    assert not (tmp_path / "run").exists()


class Listing(Exporter):
    """Writes the names of the parameters."""

    file_name = "names.txt"

    def export(self, module, path, example):
        Path(path).write_text("\n".join(name for name, _ in module.named_parameters()))
        return ExportReport(Path(path), Path(path).stat().st_size, notes=("names alone",))


def exported(folder: Path, exporters: Mapping[str, Exporter]) -> Result:
    make_trainer = partial(Trainer, accelerator="cpu")
    return compress(
        FullModule(), FullData(), {"prune": uniform()}, folder=folder, make_trainer=make_trainer, exporters=exporters
    )


def test_each_exporter_writes_its_file_and_its_report_is_in_the_result(tmp_path):
    exports = exported(tmp_path, {"names": Listing()}).exports
    assert exports.keys() == {"packed", "names"}
    assert all((tmp_path / file).stat().st_size for file in ("model.safetensors", "names.txt"))
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["exports"]["names"]["notes"] == ["names alone"]
    assert written["exports"]["packed"]["bytes"] == written["compressed"]["bytes"]


def test_both_networks_have_figures_in_the_runtime(tmp_path):
    pytest.importorskip("onnxruntime", reason="the runtime is not installed")
    callback = QuantizationAwareTraining(placement=Tensors())
    stage = Stage({"quantization": callback}, Uniform({"weight_bits": 8, "act_bits": 8}), epochs=1)
    make_trainer = partial(Trainer, accelerator="cpu")
    result = compress(
        FullModule(), FullData(), {"q": stage}, folder=tmp_path, make_trainer=make_trainer, exporters={"onnx": Onnx()}
    )
    last = [figure.name for figure in result.figures][-3:]
    assert last == ["onnx_bytes", "onnx_int8_ms", "onnx_float32_ms"]
    assert result.compressed.onnx_bytes == result.exports["onnx"].bytes == (tmp_path / "model.onnx").stat().st_size
    assert result.dense.onnx_int8_ms == result.dense.onnx_float32_ms > 0 < result.compressed.onnx_int8_ms
    assert all("ONNX Runtime" in figure.label and figure.measured for figure in result.figures[-2:])
    assert json.loads((tmp_path / "result.json").read_text())["dense"].keys() == result.dense.keys()


@pytest.mark.parametrize(
    ("exporters", "words"),
    [
        ({"one": Listing(), "two": Listing()}, "'one' and 'two' both write names.txt; keep one of them"),
        ({"packed": Listing()}, "'packed' must be a Packed, whose file is measured; give the Listing another name"),
    ],
)
def test_exporters_that_cannot_be_are_refused_at_once(tmp_path, exporters, words):
    with pytest.raises(CompressError, match=words):
        exported(tmp_path / "run", exporters)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("unused", [{"budget": 0.5}, {"trials": 3}], ids=lambda unused: next(iter(unused)))
def test_what_a_plan_takes_the_place_of_is_refused_beside_it(tmp_path, unused):
    with pytest.raises(CompressError, match=f"{next(iter(unused))}=.* leave out .* or the plan"):
        compress(FullModule(), FullData(), "plan_prune", folder=tmp_path / "run", plan=PLAN, **unused)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("settings", "metric", "message"), [
    ({}, "test_accuracy", "test_step of FullModule logs ['test_acc'], not 'test_accuracy'; did you mean 'test_acc'?"),
    ({"evaluation": Evaluation(monitor="acc")}, "test_acc", "stage prune: validation_step logs ['val_acc'"),
    ({"objective": AccuracyUnderBudget(loss="val_los")}, "test_acc", "has no 'val_los'; did you mean 'val_loss'"),
])  # fmt: skip
def test_names_of_metrics_are_checked_before_anything_is_scored_or_trained(settings, metric, message, tmp_path):
    stage = pruning(Search(**{**BUDGET, "searcher": Random, "trials": 2, **settings}))
    with pytest.raises(CompressError) as raised:
        compress(FullModule(), FullData(), {"prune": stage}, folder=tmp_path, metric=metric)
    assert message in str(raised.value)
    assert not (tmp_path / "prune").exists()
