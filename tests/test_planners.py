"""The planners' contract, collected from conf/, and what each says of its plan."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from lightning import Trainer

import lightning_compress.conf
from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.rate_quantization import RateQuantization
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.evaluation import Evaluation
from lightning_compress.pipeline.layerwise import LayerwiseStage
from lightning_compress.pipeline.planners.coded_bits import CodedBits
from lightning_compress.pipeline.planners.from_file import FromFile
from lightning_compress.pipeline.planners.knapsack import Knapsack
from lightning_compress.pipeline.planners.planner import Planned, Planner
from lightning_compress.pipeline.planners.search import Search
from lightning_compress.pipeline.planners.sensitivity import Sensitivity
from lightning_compress.pipeline.planners.uniform import Uniform
from lightning_compress.pipeline.student import Student
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.random import Random
from lightning_compress.surgery import measure
from lightning_compress.testing.planners import PlannerContract
from lightning_compress.testing.toys import PlainModule, ToyData

EXAMPLE = torch.zeros(2, 1, 8, 8)
FILES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "planner").glob("*.yaml"))
STAGE = "compress.stages.quantize"
SETTINGS = {  # of the planners that need some, or would take long
    "from_file": ["file={fc:{weight_bits:3}}"],
    "search": ["trials=2"],
    "sensitivity": ["values=1"],
}
SCORED = {"objective": AccuracyUnderBudget(), "evaluation": Evaluation(recalibration_batches=1)}
BITS = QuantizationAwareTraining(weight_bits=(2, 4, 8), act_bits=(4, 8))


def dense() -> PlainModule:
    torch.manual_seed(0)
    return PlainModule()


def planned(planner: Planner, folder: Path, module: PlainModule | None = None, callback=BITS) -> Planned:
    module = module or dense()
    profile = measure.measure(module.model, EXAMPLE)
    run = RunContext(ToyData(), module, profile, EXAMPLE, partial(Trainer, accelerator="cpu"), folder.parent, 0)
    composition = Composition([callback], module.model, EXAMPLE)
    return planner.make_plan(composition, Student(copy.deepcopy(module)), run, folder)


class TestContract(PlannerContract):
    @pytest.fixture(params=FILES, ids=lambda file: file.stem)
    def planner(self, request):
        name = request.param.stem
        given = [f"compress/planner@{STAGE}.planner={name}", "compress/searcher=random", "compress.budget=0.2"]
        given += [f"{STAGE}.planner.{setting}" for setting in SETTINGS.get(name, [])]
        with initialize_config_module("lightning_compress.conf", version_base="1.3"):
            config = compose(overrides=["+compress=quant", *given])
        return instantiate(config.compress.stages.quantize.planner, _convert_="object")

    @pytest.fixture
    def callback(self, planner):
        return RateQuantization() if isinstance(planner, CodedBits) else BITS

    @pytest.fixture
    def module(self):
        return dense()

    @pytest.fixture
    def net(self, module):
        return module.model

    @pytest.fixture
    def make_plan(self, planner, module, callback):
        return partial(planned, planner, module=module, callback=callback)

    @pytest.fixture
    def resolve(self, net, callback):
        return Composition([callback], net, EXAMPLE).resolve


@pytest.mark.parametrize(
    ("planner", "origin", "limit"),
    [
        (
            Uniform({"weight_bits": 4, "act_bits": 8}),
            "the same for every layer, nothing was searched: weight_bits 4, act_bits 8",
            "",
        ),
        (FromFile(Plan({"fc": {"weight_bits": 3}})), "given as a plan", ""),
        (
            Knapsack(cost=PackedBytes(), budget=0.2),
            "made in closed form by Knapsack; no candidate was scored",
            "at most 20 % of the dense network's size of the packed file",
        ),
        (
            Search(cost=PackedBytes(), budget=2500, searcher=Random, trials=2, **SCORED),
            "the best that Random found; no baselines were run",
            "at most 2,500 bytes",
        ),
        (
            Search(
                cost=PackedBytes(), budget=0.3, searcher=partial(Random), baselines={"a": Random}, trials=1, **SCORED
            ),
            "the best that Random found; run beside it with as many trials: a",
            "at most 30 % of the dense network's size of the packed file",
        ),
        (
            Sensitivity(cost=PackedBytes(), budget=0.5, values=1, **SCORED),
            "made from the sensitivity of each layer, which took 9 evaluations",
            "at most 50 % of the dense network's size of the packed file",
        ),
    ],
    ids=["uniform", "file", "knapsack", "search", "baselines", "sensitivity"],
)
def test_how_a_plan_came_about_and_its_budget_are_said(tmp_path, planner, origin, limit):
    found = planned(planner, tmp_path)
    assert (found.origin, found.limit) == (origin, limit)


def test_a_file_is_named(tmp_path):
    Plan({"fc": {"weight_bits": 3}}).save(tmp_path / "my.yaml")
    found = planned(FromFile(tmp_path / "my.yaml"), tmp_path)
    assert found.origin == f"read from {tmp_path / 'my.yaml'}"
    assert found.plan == Plan({"fc": {"weight_bits": 3}})


def test_a_layer_by_layer_stage_says_its_order(tmp_path):
    stage = LayerwiseStage({"channels": ChannelPruning()})
    assert stage.origin(Planned(Plan({}), "made so", ("a", "b"))) == (
        "made so; applied layer by layer, the least sensitive first"
    )
    assert stage.origin(Planned(Plan({}), "made so")) == "made so; applied layer by layer"


def test_what_a_file_says_nothing_of_stays_but_for_numbers_that_nobody_searches(tmp_path):
    other = Plan({"fc": {"weight_bits": 3}})
    search = Search(cost=MACs(), budget=0.5, searcher=Random, **SCORED)
    for replaced, layers in ((search, set()), (None, set()), (Uniform({"channels": 0.5}), {"stem.0", "conv1"})):
        found = planned(FromFile(other, replaced), tmp_path, callback=ChannelPruning())
        assert found.plan.layers.keys() == layers


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({}, r"uniform: the numbers are \{\}; give one for any of \['act_bits', 'weight_bits'\]"),
        ({"weight_bit": 4}, r"did you mean 'weight_bits'"),
    ],
)
def test_numbers_for_nothing_are_refused(tmp_path, numbers, words):
    with pytest.raises(CompressError, match=words):
        planned(Uniform(numbers), tmp_path)


def test_stages_share_numbers_and_each_takes_its_own(tmp_path):
    shared = Uniform({"channels": 0.5, "weight_bits": 4})
    assert planned(shared, tmp_path).plan.knobs == {"weight_bits"}
    assert planned(shared, tmp_path, callback=ChannelPruning()).plan.knobs == {"channels"}
