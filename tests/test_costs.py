"""The costs' contract, collected from conf/, and closed forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import lightning_compress.conf
from lightning_compress.core.costs.bit_operations import BitOperations
from lightning_compress.core.costs.latency_table import LatencyTable
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.costs.measured_cost import MeasuredCost
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.costs.parameters import Parameters
from lightning_compress.core.costs.weight_bits import WeightBits
from lightning_compress.core.errors import CompressError
from lightning_compress.core.packed_size import HEADER_BYTES, OTHER_ENTRY_BYTES, WEIGHT_ENTRY_BYTES
from lightning_compress.testing.costs import CONV, LINEAR, NORM, CostContract, profile

FILES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "cost").glob("*.yaml"))


TABLE = {
    "overhead": 0.25,
    "layers": [
        {"kind": "conv", "in_channels": 4, "out_channels": 4, "kernel": [3, 3], "positions": 64, "milliseconds": 1.0},
        {"kind": "conv", "in_channels": 3, "out_channels": 8, "kernel": [3, 3], "positions": 64, "milliseconds": 1.5},
        {"kind": "linear", "in_channels": 8, "out_channels": 10, "milliseconds": 0.125},
    ],
}


@pytest.fixture
def table(tmp_path) -> Path:
    """Return the file of a latency table."""
    file = tmp_path / "table.yaml"
    file.write_text(yaml.safe_dump(TABLE))
    return file


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """Return the folder that measurements are kept in."""
    return tmp_path_factory.mktemp("measured")


class TestContract(CostContract):
    @pytest.fixture(params=FILES, ids=lambda file: file.stem)
    def cost(self, request, table, kept):
        config = OmegaConf.load(request.param)
        files = {"file": str(table)} if OmegaConf.is_missing(config, "file") else {}
        cost = instantiate(config, **files)
        if isinstance(cost, MeasuredCost):
            for package in ("onnxruntime", "ai_edge_litert"):
                pytest.importorskip(package, reason="the runtime is not installed")
            cost.keep_in(kept)
        return cost

    def test_its_name_is_that_of_its_file(self, cost, request):
        assert cost.name == request.node.callspec.params["cost"].stem


def test_closed_forms():
    net = profile(CONV, NORM, LINEAR)
    assert MACs()(net) == 3 * 8 * 9 * 64 + 80
    assert Parameters()(net) == 3 * 8 * 9 + 16 + 80 + 10
    assert WeightBits()(net) == 32 * (3 * 8 * 9 + 80)
    assert BitOperations()(net) == 32 * 32 * (3 * 8 * 9 * 64 + 80)
    # the norm is folded: its 4 x 8 numbers become 8 biases
    header = HEADER_BYTES + 2 * WEIGHT_ENTRY_BYTES + OTHER_ENTRY_BYTES
    assert PackedBytes()(net) == header + 4 * (3 * 8 * 9 + 8 + 80 + 10)


def test_three_bit_codes_end_on_a_byte():
    odd = replace(LINEAR, in_channels=3, out_channels=1, weight_bits=3, weight_scales=1)
    assert PackedBytes()(profile(odd)) == HEADER_BYTES + WEIGHT_ENTRY_BYTES + 2 + 4 * (1 + 1)


def test_zero_weights_do_no_work():
    assert MACs()(profile(replace(LINEAR, density=0.5))) == 40
    assert WeightBits()(profile(replace(LINEAR, density=0.25))) == 32 * 20


def test_a_layer_takes_the_fastest_entry_that_is_nowhere_smaller(table):
    cost = LatencyTable(table)
    assert cost(profile(CONV, NORM, LINEAR)) == 0.25 + 1.5 + 0.125
    assert cost(profile(replace(CONV, out_channels=5))) == 0.25 + 1.5
    assert cost(profile(replace(CONV, out_channels=4))) == 0.25 + 1.0


@pytest.mark.parametrize("change", [
    {"out_channels": 9}, {"in_channels": 5}, {"stride": 2}, {"positions": 65}, {"kernel": (5, 3)}, {"kernel": (3,)},
    {"in_channels": 8, "groups": 8},
], ids=str)  # fmt: skip
def test_a_layer_that_no_entry_covers_is_named(table, change):
    with pytest.raises(CompressError, match=r"no entry covers layer 'conv'.*add one at least as large"):
        LatencyTable(table)(profile(replace(CONV, **change)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot read"),
        ("layers: 3", "has no list 'layers'"),
        ("layers: [{kind: conv, in_channels: 1, out_channels: 1}]", "wrong entry .*milliseconds"),
        ("layers: [{kind: conv, width: 1, milliseconds: 1}]", "wrong entry .*width"),
        ("layers: [{kind: conv, in_channels: 1, out_channels: 1, milliseconds: -1}]", "milliseconds is -1"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, text, words):
    if text is not None:
        (tmp_path / "table.yaml").write_text(text)
    with pytest.raises(CompressError, match=words):
        LatencyTable(tmp_path / "table.yaml")


@pytest.mark.parametrize(
    ("budget", "limit"), [(0.5, 4.0), (1.0, 8.0), (2e6, 2e6), ("0.8 ms", 0.8), ("1,200 ms", 1200.0)]
)
def test_a_budget_is_a_share_or_the_limit_itself(table, budget, limit):
    assert LatencyTable(table).limit(budget, 8.0) == limit


@pytest.mark.parametrize(
    "budget", [0, -1.0, True, "0.8", "0.8 s", "ms", "-1 ms", float("nan"), float("inf"), "inf ms", None]
)
def test_a_budget_that_is_neither_is_refused(table, budget):
    with pytest.raises(CompressError, match=r"budget must be a share in \(0, 1\] .* number of ms, .* such as '4 ms'"):
        LatencyTable(table).limit(budget, 8.0)


@given(st.floats(1e-6, 1e9), st.sampled_from([None, 1, 3, 5]))
def test_a_number_that_is_rounded_up_is_shown_in_full(value, digits):
    cost = type("Any", (MACs,), {"digits": digits})()
    shown = cost.round_up(value)
    assert value <= shown * (1 + 1e-9)
    assert float(cost.text(shown).removesuffix(" MACs").replace(",", "")) == pytest.approx(shown, rel=1e-9)
