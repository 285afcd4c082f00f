"""Latency as a cost: what surrounds the clock. The clock itself is replaced by one that counts."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import partial

import pytest
import torch
import yaml
from lightning import Trainer

from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.costs.latency_table import LatencyTable
from lightning_compress.core.errors import CompressError, InfeasibleBudgetError
from lightning_compress.core.json_record import read_record
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.export.compared import machine
from lightning_compress.export.layer_graph import layer_graph
from lightning_compress.export.least_time import least_milliseconds, least_of_turns
from lightning_compress.export.onnx import latency as latency_module
from lightning_compress.export.onnx import layer_time
from lightning_compress.export.onnx.int8_latency import Int8Latency
from lightning_compress.export.onnx.latency import FILE, Latency
from lightning_compress.export.onnx.layer_time import layer_call
from lightning_compress.export.tflite.int8_latency import LiteRTInt8Latency
from lightning_compress.export.tflite.latency import LiteRTLatency
from lightning_compress.pipeline.context import PLANNED, RunContext
from lightning_compress.pipeline.planners.output_error import OutputError
from lightning_compress.pipeline.planners.search import Search
from lightning_compress.pipeline.stage import Stage
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.random import Random
from lightning_compress.surgery import measure
from lightning_compress.surgery.structure import network, structure_of
from lightning_compress.testing.toys import PlainModule, ToyData, ToyNet

pytest.importorskip("onnxruntime", reason="the runtime is not installed")
EXAMPLE = torch.zeros(2, 1, 8, 8)
TABLE = "board.yaml"
COSTS = (LiteRTLatency, LiteRTInt8Latency)


@pytest.fixture
def clock(monkeypatch) -> list[str]:
    """Layers take their MACs, networks the bytes of their file; every measurement is noted."""
    seen: list[str] = []

    def of_layer(layer: LayerProfile, integer: bool):
        seen.append("layer")
        return lambda: layer.macs / 1e3

    class Counting:
        """Stands in for a session: bytes of the file, which grow with the channels."""

        def __init__(self, content: bytes) -> None:
            self.content = content

        def milliseconds(self, x: torch.Tensor) -> float:
            seen.append("network")
            return 1e-3 * len(self.content)

    monkeypatch.setattr(latency_module, "layer_call", of_layer)
    monkeypatch.setattr(latency_module, "least_of_turns", lambda calls: [call() for call in calls])
    monkeypatch.setattr(latency_module, "Session", Counting)
    return seen


def run_in(folder) -> RunContext:
    torch.manual_seed(0)
    dense = PlainModule()
    profile = measure.measure(dense.model, EXAMPLE)
    return RunContext(ToyData(), dense, profile, EXAMPLE, partial(Trainer, accelerator="cpu"), folder, 0)


def planned(folder, planner) -> tuple[PlainModule, str]:
    run = run_in(folder)
    stage = Stage({"channels": ChannelPruning()}, planner, epochs=0)
    module = stage.run("prune", run.dense, run)
    return module, json.loads((folder / "prune" / PLANNED).read_text())["origin"]


@pytest.mark.parametrize("cost", [Latency(), Int8Latency()])
def test_what_is_measured_is_kept_by_structure_machine_and_version(cost, clock, tmp_path, monkeypatch):
    net, again = ToyNet(), type(cost)()
    cost.keep_in(tmp_path)
    found = cost.measure(net, EXAMPLE), cost(measure.measure(net, EXAMPLE))
    count = len(clock)
    other = copy.deepcopy(net)
    other.conv1.weight.data.add_(1)  # weights do not matter
    assert cost.measure(other, EXAMPLE) == found[0]
    again.keep_in(tmp_path)
    assert (again.measure(net, EXAMPLE), again(measure.measure(net, EXAMPLE))) == found
    assert len(clock) == count
    monkeypatch.setattr(latency_module, "runtime_version", lambda: "another")
    newer = type(cost)()
    newer.keep_in(tmp_path)
    newer.measure(net, EXAMPLE)
    assert len(clock) == count + 1
    assert set(read_record(tmp_path / FILE)) == {cost.name}


def test_layers_are_estimated_at_multiples_of_what_the_runtime_computes_at_once(clock):
    layer = LayerProfile("conv", "conv", 32, 64, kernel=(3, 3), positions=4)
    cost = Latency()
    dense = cost(Profile({"conv": layer}))
    assert dense == layer.macs / 1e3
    assert cost(Profile({"conv": layer}).change("conv", out_channels=33)) == pytest.approx(0.75 * dense)  # as 48
    assert cost(Profile({"conv": layer}).change("conv", out_channels=16, in_channels=16)) == pytest.approx(dense / 8)


@pytest.mark.parametrize("planner", [
    partial(OutputError, batches=1),
    partial(Search, searcher=Random, trials=3, baselines={}, objective=AccuracyUnderBudget()),
])  # fmt: skip
def test_a_plan_is_made_smaller_until_it_was_measured_to_fit(planner, clock, tmp_path):
    cost = Latency(round_to=1)
    module, origin = planned(tmp_path, planner(cost=cost, budget=0.8))
    run, net = run_in(tmp_path), network(module)
    dense = cost.measure(run.dense.model, EXAMPLE)
    assert structure_of(net).profile.macs < run.dense_profile.macs
    assert cost.measure(net, EXAMPLE) <= 0.8 * dense
    assert "measured to take" in origin
    count = len(clock)
    planned(tmp_path, planner(cost=Latency(round_to=1), budget=0.8))
    assert len(clock) == count


def test_a_limit_that_no_plan_meets_is_an_error(clock, tmp_path):
    with pytest.raises(InfeasibleBudgetError, match=r"the smallest .* takes .* ms, and the limit is|cannot be met"):
        planned(tmp_path, OutputError(cost=Latency(), budget="0.01 ms", batches=1))


@pytest.mark.parametrize("integer", [False, True])
def test_layers_run_in_the_runtime(integer):
    conv = LayerProfile("conv", "conv", 4, 8, kernel=(3, 3), stride=2, positions=16)
    up = LayerProfile("up", "conv_transpose", 8, 4, kernel=(2, 2), stride=2, positions=16)
    for layer in (
        conv,
        up,
        LayerProfile("dw", "conv", 8, 8, 8, (3, 3), positions=16),
        LayerProfile("fc", "linear", 8, 4),
    ):
        for call in (layer_call, lambda layer, integer: COSTS[integer]().layer_call(layer)):
            assert least_of_turns([call(layer, integer)], rounds=1, seconds=0.0)[0] > 0


@pytest.mark.parametrize("make", [Latency, lambda: LatencyTable(TABLE)], ids=["measured", "table"])
def test_transposed_convolutions_count(make, clock, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layers = [
        {"kind": kind, "in_channels": 8, "out_channels": 8, "kernel": [3, 3], "positions": 64, "milliseconds": 0.5}
        for kind in ("conv", "conv_transpose")
    ]
    (tmp_path / TABLE).write_text(yaml.safe_dump({"layers": layers}))
    up = LayerProfile("up", "conv_transpose", 8, 4, kernel=(2, 2), stride=1, positions=16)
    alone, both = Profile({"up": up}), Profile({"up": up, "conv": replace(up, name="conv", kind="conv")})
    assert make()(both) > make()(alone) > 0


@pytest.mark.parametrize(("text", "name"), [
    ("processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fma avx2\n\nprocessor\t: 1\n", "AMD EPYC, AVX2"),
    ("model name\t: AMD EPYC\nflags\t\t: avx2 avx512f avx512_vnni\n", "AMD EPYC, AVX-512 VNNI"),
    ("model name\t: Neoverse-N1\nFeatures\t: asimd\n", "Neoverse-N1"),
])  # fmt: skip
def test_processors_of_one_name_are_told_apart(text, name, tmp_path):
    (tmp_path / "cpuinfo").write_text(text)
    assert machine(tmp_path / "cpuinfo") == name


def test_a_call_is_repeated_as_often_as_asked():
    calls = []
    assert least_milliseconds(partial(calls.append, 1), runs=7, seconds=0.0) >= 0
    assert len(calls) == 7
    found = least_of_turns([partial(calls.append, 2), partial(calls.append, 3)], rounds=3, seconds=0.0)
    assert calls[7:] == 3 * [2, 2, 3, 3]
    assert len(found) == 2


def test_networks_are_measured_in_litert():
    pytest.importorskip("ai_edge_litert", reason="the runtime is not installed")
    for make in COSTS:
        cost = make()
        assert "LiteRT" in cost.runtime()
        assert cost.measure(ToyNet(), EXAMPLE) > 0
        with pytest.raises(CompressError, match="operation 'gelu' in module '1'"):
            cost.measure(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.GELU()), EXAMPLE)


def test_a_pruned_convolution_reads_as_many_channels_as_the_one_before_it_makes(monkeypatch):
    seen = []
    noted = lambda layer, integer: seen.append(layer) or layer_graph(layer, integer)  # noqa: E731
    monkeypatch.setattr(layer_time, "layer_graph", noted)
    for channels in (3, 4, 8, 20):
        layer_call(LayerProfile("conv", "conv", channels, 8, kernel=(3, 3), positions=16), True)
    assert [(layer.in_channels, layer.out_channels) for layer in seen] == [(4, 16), (16, 16), (16, 16), (20, 16)]


def test_a_convolution_of_one_dimension_is_refused():
    with pytest.raises(CompressError, match=r"layer 'conv' is a convolution of 1 dimensions.*latency_table"):
        layer_call(LayerProfile("conv", "conv", 4, 8, kernel=(3,)), False)
