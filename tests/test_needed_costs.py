"""A search records the costs that its budget and its objective need."""

from __future__ import annotations

import pytest
from hydra import initialize_config_module

from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.costs.parameters import Parameters
from lightning_compress.core.costs.weight_bits import WeightBits
from lightning_compress.core.errors import CompressError
from lightning_compress.pipeline.needed_costs import needed_costs
from lightning_compress.search.objectives.n2n_reward import N2NReward
from lightning_compress.search.objectives.objective import AccuracyLogCost, AccuracyUnderBudget


class Macs2(MACs):
    """Another cost of the same name."""


@pytest.mark.parametrize(
    ("cost", "objective", "costs"),
    [
        (MACs(), AccuracyUnderBudget(), (MACs(),)),
        (MACs(), AccuracyLogCost(), (MACs(),)),
        (PackedBytes(), AccuracyLogCost(), (PackedBytes(), MACs())),
        (PackedBytes(), N2NReward(), (PackedBytes(), Parameters())),
        (MACs(), AccuracyLogCost(cost=WeightBits()), (MACs(), WeightBits())),
        (Macs2(), AccuracyLogCost(cost="macs"), (Macs2(),)),
    ],
)
def test_each_once_the_budget_s_first(cost, objective, costs):
    assert needed_costs(cost, objective) == costs


def test_names_are_found_in_a_running_application_too():
    with initialize_config_module("lightning_compress.conf", version_base="1.3"):
        assert needed_costs(MACs(), AccuracyLogCost(cost="weight_bits")) == (MACs(), WeightBits())


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (AccuracyLogCost(cost="mac"), "there is no cost 'mac'; did you mean 'macs'"),
        (AccuracyLogCost(cost=Macs2()), "both named 'macs' and are not the same"),
    ],
)
def test_what_cannot_be_found_or_told_apart_is_refused(objective, words):
    with pytest.raises(CompressError, match=words):
        needed_costs(MACs(), objective)
