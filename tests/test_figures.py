"""Figures are declared once, and costs of third parties are among them."""

from __future__ import annotations

import json
import pickle
from functools import partial
from math import sqrt
from typing import ClassVar

import pytest
import torch
from lightning import Trainer

from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.pipeline.compress import compress
from lightning_compress.pipeline.figures import Figure, Figures, declare, from_dicts, standard_error, to_dicts
from lightning_compress.pipeline.planners.search import Search
from lightning_compress.pipeline.stage import Stage
from lightning_compress.search.objectives.objective import AccuracyLogCost
from lightning_compress.search.searchers.random import Random
from lightning_compress.testing.toys import FullData, FullModule, ToyData


class Energy(Cost):
    """A cost of a third party, in fractions of a unit."""

    name: ClassVar[str] = "energy"
    unit: ClassVar[str] = "mJ"
    digits: ClassVar[int | None] = 3

    def __call__(self, profile):
        return profile.macs / 1e6


def names(figures):
    return [figure.name for figure in figures]


def test_costs_of_the_run_stand_among_the_figures_once():
    usual = ["accuracy", "bytes", "weight_bits", "macs", "parameters", "activation_bytes"]
    assert names(declare("test_acc", [])) == names(declare("test_acc", [MACs(), PackedBytes(), MACs()])) == usual
    assert names(declare("test_acc", [Energy(), MACs()])) == [*usual, "energy"]


def test_a_metric_that_is_no_accuracy_is_a_number_of_which_nobody_says_what_is_better():
    figure, *_ = declare("test_mse", [])
    assert (figure.label, figure.unit, figure.higher_is_better) == ("test_mse", "", None)
    assert figure.text(0.0125) == "0.0125"


@pytest.mark.parametrize(
    ("figure", "dense", "compressed", "cells"),
    [
        (Figure("a", "a", "%"), 0.98, 0.985, ("98.00 %", "98.50 %", "+0.50 points")),
        (Figure("a", "a", "bytes"), 1000, 8000, ("1,000 bytes", "8,000 bytes", "8.00x more")),
        (Figure("a", "a", "ms", 3), 0.31234, 0.31234, ("0.312 ms", "0.312 ms", "same")),
        (Figure("a", "a"), 0, 5, ("0", "5", "-")),
        (Figure("a", "a", "", 4), -1.0, 5.0, ("-1", "5", "-")),
    ],
)
def test_texts_and_changes(figure, dense, compressed, cells):
    assert (figure.text(dense), figure.text(compressed), figure.change(dense, compressed)) == cells


def test_figures_go_through_json_and_pickle():
    declared = tuple(declare("test_acc", [Energy()]))
    assert from_dicts(json.loads(json.dumps(to_dicts(declared)))) == declared
    figures = pickle.loads(pickle.dumps(Figures({"bytes": 3})))
    assert figures.bytes == figures["bytes"] == 3
    with pytest.raises(AttributeError, match=r"no figure 'byte'; there are \['bytes'\]"):
        _ = figures.byte


def test_the_standard_error_of_a_share_is_never_zero():
    assert standard_error(0.5, 100) == sqrt(0.25 / 100)
    assert [standard_error(share, 9) for share in (1.0, 0.0)] == pytest.approx([0.1, 0.1])


def test_the_cost_of_a_third_party_is_budget_objective_and_figure(tmp_path):
    torch.manual_seed(0)
    planner = Search(cost=Energy(), budget=0.5, objective=AccuracyLogCost(cost=Energy()), searcher=Random, trials=2)
    stages = {"prune": Stage({"channels": ChannelPruning()}, planner, epochs=0)}
    result = compress(
        FullModule(), FullData(), stages, folder=tmp_path, make_trainer=partial(Trainer, accelerator="cpu")
    )
    assert result.compressed.energy == result.compressed.macs / 1e6 <= 0.5 * result.dense.energy
    assert result.samples == len(ToyData().val_dataloader().dataset)
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["compressed"]["energy"] == result.compressed["energy"]
    assert {"name": "energy", "unit": "mJ", "digits": 3}.items() <= written["figures"][6].items()
