"""Every ``+compress=NAME`` composes, and its stages can be made, without training anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import lightning_compress.conf
from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.base.order import check_order
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.export.onnx.exporter import Onnx
from lightning_compress.export.packed import Packed
from lightning_compress.export.tflite.exporter import TFLite
from lightning_compress.pipeline.configuration import method_of
from lightning_compress.pipeline.planners.search import Search
from lightning_compress.pipeline.planners.uniform import Uniform
from lightning_compress.pipeline.stage import Stage
from lightning_compress.pipeline.student import Student
from lightning_compress.pruning.reconstruction.symmetric import Symmetric
from lightning_compress.quantization.coders.range_coded import RangeCoded
from lightning_compress.search.searchers.greedy import Greedy
from lightning_compress.testing.toys import PlainModule
from lightning_compress.vision.models.resnet_cifar import resnet8

ROOT = Path(__file__).parent.parent
WAYS = sorted((Path(lightning_compress.conf.__file__).parent / "compress").glob("*.yaml"))


def made(way: str, *overrides: str) -> dict[str, Stage]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", [f"+compress={way}", "hydra.run.dir=unused", *overrides])
    return instantiate(config.compress.stages, _convert_="object")


@pytest.mark.parametrize(("overrides", "density"), [
    ([], 0.2), (["compress/pattern=kernel"], 0.2), (["compress/pattern=n_of_m"], 0.5),
    (["compress/pattern=n_of_m", "compress.pattern.n=1"], 0.25),
])  # fmt: skip
def test_sparsify_has_a_density_that_the_pattern_can_have(overrides, density):
    stage = made("sparsify", *overrides)["sparsify"]
    module = PlainModule()
    composition = Composition(list(stage.callbacks.values()), module.model, torch.zeros(2, 1, 8, 8))
    plan = composition.resolve(stage.planner.make_plan(composition, Student(module), None, Path()).plan)
    assert plan.get("conv1", "density") == pytest.approx(density, abs=0.01)
    assert ("stem.0" in plan.layers) == ("n_of_m" not in str(overrides))  # one input channel cannot be divided


@pytest.mark.parametrize("file", WAYS, ids=lambda file: file.stem)
def test_stages_are_made(file):
    stages = made(file.stem)
    assert stages
    for stage in stages.values():
        assert isinstance(stage, Stage)
        stage.check("one")
        check_order(list(stage.callbacks.values()))
        assert stage.callbacks or stage.distillation


@pytest.mark.parametrize("file", WAYS, ids=lambda file: file.stem)
def test_wherever_channels_are_pruned_a_refit_can_be_chosen(file):
    if not any(isinstance(c, ChannelPruning) for stage in made(file.stem).values() for c in stage.callbacks.values()):
        pytest.skip("it prunes no channels")
    stages = made(file.stem, "compress/refit=symmetric")
    pruning = [c for stage in stages.values() for c in stage.callbacks.values() if isinstance(c, ChannelPruning)]
    assert [callback.refit for callback in pruning] == [Symmetric()]


@pytest.mark.parametrize("file", WAYS, ids=lambda file: file.stem)
def test_a_searcher_has_its_baselines_also_where_the_command_line_brings_it(file):
    if "- search@" not in file.read_text():
        pytest.skip("it searches nothing")
    uniform = [name for name, stage in made(file.stem).items() if isinstance(stage.planner, Uniform)]
    # Of several, the last removes something; those before it make noise, in every layer.
    switch = [f"compress/planner@compress.stages.{name}.planner=search" for name in uniform[-1:]]
    stages = made(file.stem, *(switch if file.stem != "drl_two_stage" else []), "compress/searcher=greedy").values()
    searched = [stage.planner for stage in stages if isinstance(stage.planner, Search)]
    assert searched or file.stem in ("ga_channel", "knapsack_quant", "plan_mixed", "plan_prune", "plan_quant")
    assert all(planner.searcher.func is Greedy for planner in searched)
    assert all(list(planner.baselines) == ["uniform", "random"] for planner in searched)


@pytest.mark.parametrize(
    ("overrides", "knobs"),
    [
        ([], {"channels", "density", "weight_bits"}),
        (
            ["compress/callback@compress.stages.mixed.callbacks.low_rank=low_rank"],
            {"channels", "density", "weight_bits", "rank_in", "rank_out"},
        ),
        (
            ["~compress.stages.mixed.callbacks.weights", "compress.stages.mixed.callbacks.quantization.act_bits=[4,8]"],
            {"channels", "weight_bits", "act_bits"},
        ),
    ],
)
def test_genes_of_a_mixed_search_are_added_and_dropped_on_the_command_line(overrides, knobs):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", ["+compress=genecai_mixed", "hydra.run.dir=unused", *overrides])
    stage = instantiate(config.compress.stages, _convert_="object")["mixed"]
    space = Composition(list(stage.callbacks.values()), resnet8(in_channels=1).eval(), torch.zeros(2, 1, 8, 8)).space()
    assert {choice.knob for choice in space.choices} == knobs
    assert stage.planner.cost == PackedBytes(RangeCoded())


@pytest.mark.parametrize("file", WAYS, ids=lambda file: file.stem)
@pytest.mark.parametrize("coder", ["fixed_width", "range_coded"])
def test_the_file_is_written_by_the_coder_that_a_size_budget_counts(file, coder):
    if "- coder: range_coded" not in file.read_text():
        pytest.skip("it has no codes, or no budget of bytes")
    if (file.stem, coder) == ("rate", "fixed_width"):
        pytest.skip("it needs a coder that says what a code takes, and refuses this one in a sentence")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", [f"+compress={file.stem}", f"compress/coder={coder}", "hydra.run.dir=unused"])
    method = method_of(config.compress)
    costs = [cost for stage in method.stages.values() for cost in stage.costs if isinstance(cost, PackedBytes)]
    assert {cost.coder for cost in costs} <= {method.exporters["packed"].coder}
    assert method.exporters["packed"].coder.kind == {"range_coded": "adaptive_range"}.get(coder, coder)


def test_exporters_are_made_as_they_are():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", ["+compress=int8", "+compress/exporter=[onnx,tflite]", "hydra.run.dir=unused"])
    made = method_of(config.compress).exporters
    assert {name: type(exporter) for name, exporter in made.items()} == {
        "packed": Packed,
        "onnx": Onnx,
        "tflite": TFLite,
    }
