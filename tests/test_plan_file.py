"""A plan file in a run of several stages: each takes its part; what none understands is said before any training."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from lightning import Trainer

import lightning_compress as lc
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.layer_removal import LayerRemoval
from lightning_compress.callbacks.log_normal_dropout import LogNormalDropout
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.layerwise import LayerwiseStage
from lightning_compress.pipeline.planners.search import Search
from lightning_compress.pipeline.planners.sensitivity import Sensitivity
from lightning_compress.pipeline.planners.uniform import Uniform
from lightning_compress.pipeline.stage import Stage
from lightning_compress.pruning.initializers.inherit import Inherit
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.random import Random
from lightning_compress.vision.data.digits import Digits
from lightning_compress.vision.models.classifier import ImageClassifier
from lightning_compress.vision.models.resnet_cifar import ResNetCIFAR

BUDGET = {"cost": MACs(), "budget": 0.5, "objective": AccuracyUnderBudget()}
SEARCHED = {"planner": Search(**BUDGET, searcher=Random), "epochs": 0}


def run(folder: Path, plan: Plan, **stages: Stage) -> Plan:
    module = ImageClassifier(ResNetCIFAR(1, in_channels=1, width=4), 10)
    make_trainer = partial(Trainer, accelerator="cpu", logger=False)
    return lc.compress(module, Digits(100, 1, 8), stages, folder=folder, make_trainer=make_trainer, plan=plan).plan


def remove() -> Stage:
    return Stage({"layers": LayerRemoval(initialize=Inherit())}, **SEARCHED)


def noise() -> Stage:
    return Stage({"noise": LogNormalDropout()}, Uniform({"log_normal": 1}), epochs=0)


def shrink() -> Stage:
    return Stage({"channels": ChannelPruning()}, **SEARCHED)


def quantize() -> Stage:
    return Stage({"bits": QuantizationAwareTraining()}, Uniform({"weight_bits": 4}), epochs=0)


def test_each_stage_takes_what_it_understands(tmp_path):
    plan = Plan({"layer1.0": {"keep": 0}, "layer2.0.conv1": {"channels": 0.5}, "fc": {"weight_bits": 3}})
    found = run(tmp_path, plan, remove=remove(), noise=noise(), shrink=shrink(), quantize=quantize())
    assert (
        Plan({name: {k: v for k, v in found.layers[name].items() if k != "log_normal"} for name in plan.layers}) == plan
    )
    assert found.knob("log_normal").keys() >= {"conv1", "layer2.0.conv1"}  # of it the file says nothing: all layers
    assert found.knob("weight_bits") == {"fc": 3}


def test_a_stage_that_would_search_changes_nothing_when_the_file_is_of_others(tmp_path):
    found = run(tmp_path, Plan({"fc": {"weight_bits": 3}}), remove=remove(), shrink=layerwise(), quantize=quantize())
    assert found == Plan({"fc": {"weight_bits": 3}})


def layerwise() -> LayerwiseStage:
    return LayerwiseStage({"channels": ChannelPruning()}, Sensitivity(**BUDGET), epochs=0)


def test_a_file_that_changes_nothing_changes_nothing(tmp_path):
    assert run(tmp_path, Plan({}), quantize=quantize()) == Plan({})


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"conv1": {"weight_bit": 4}}, r"sets 'weight_bit', which no callback .* did you mean 'weight_bits'"),
        ({"conv1": {"density": 0.5}}, r"no callback .* understand \['act_bits', 'keep', 'weight_bits'\]"),
        ({"conv2": {"weight_bits": 4}}, "the network has no layer 'conv2'; did you mean 'conv1'"),
    ],
)
def test_what_no_stage_understands_is_said_before_any_training(plan, message, tmp_path):
    with pytest.raises(CompressError, match=message):
        run(tmp_path / "run", Plan(plan), remove=remove(), quantize=quantize())
    assert not (tmp_path / "run").exists()


def test_a_layer_that_a_stage_before_removed_is_named(tmp_path):
    plan = Plan({"layer1.0": {"keep": 0}, "layer1.0.conv1": {"weight_bits": 4}})
    with pytest.raises(CompressError, match=r"'layer1.0.conv1' sets \['weight_bits'\], but 'layer1.0' was removed"):
        run(tmp_path, plan, remove=remove(), quantize=quantize())
