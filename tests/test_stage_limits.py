"""What a stage that searches needs, and the limits that its plan meets."""

from __future__ import annotations

import re
import warnings

import pytest
from test_stage import SECTION, run_in, searched

from lightning_compress.app.report.contents import Report, best_of
from lightning_compress.app.report.html import write_report
from lightning_compress.app.report.summary import search_of
from lightning_compress.core.costs.activation_bytes import ActivationBytes
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.errors import CompressError, InfeasibleBudgetError, TrialFailedError
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.evaluator import Evaluator
from lightning_compress.pipeline.planners import budgeted
from lightning_compress.pipeline.planners.limit import Limit, Resolved
from lightning_compress.search.searchers.random import Random
from lightning_compress.search.searchers.searcher import Searcher
from lightning_compress.surgery.structure import network, structure_of
from lightning_compress.testing.toys import ToyData


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"budget": None}, r"stage prune: budget is null, .* \(1.0 sets no limit\)"),
        ({"cost": None}, "stage prune: cost is null"),
        (
            {"budget": 0.0},
            r"stage prune: budget must be a share in \(0, 1\] .* above 1 a number of MACs, or .* got 0.0",
        ),
        ({"budget": "2MB"}, "stage prune: budget must be .* got '2MB'"),
        ({"budget": float("nan")}, "stage prune: budget must be .* got nan"),
        ({"objective": None}, "stage prune: objective is null, which a search needs"),
    ],
)
def test_what_a_search_needs_is_named(tmp_path, settings, words):
    with pytest.raises(CompressError, match=words):
        searched(tmp_path, **settings)


def test_a_budget_above_1_is_the_limit_itself(tmp_path):
    dense = run_in(tmp_path).dense_profile.macs
    limits = [
        search_of("prune", folder / "prune", SECTION).limit
        for folder, budget in ((tmp_path / "share", 0.75), (tmp_path / "limit", 0.75 * dense))
        if searched(folder, budget=budget)
    ]
    assert limits == [0.75 * dense, 0.75 * dense]


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (0.01, r"the budget of [\d,]+ MACs \(budget=0.01 of the dense network\) cannot be met"),
        (1000, "the budget of 1,000 MACs cannot be met"),
    ],
)
def test_a_budget_that_no_plan_meets_is_told_with_the_smallest_that_one_does(tmp_path, budget, words):
    with pytest.raises(InfeasibleBudgetError, match=f"stage prune: {words}; the smallest feasible one is") as caught:
        searched(tmp_path, budget=budget)
    limit, share = re.search(r"one is ([\d,]+) MACs \(budget=(0\.\d+)\)", str(caught.value)).groups()
    assert searched(tmp_path / "share", budget=float(share))
    assert searched(tmp_path / "limit", budget=float(limit.replace(",", "")))
    with pytest.raises(InfeasibleBudgetError):
        searched(tmp_path, budget=float(share) - 1e-4)


def test_a_plan_meets_every_limit(tmp_path):
    dense, memory = run_in(tmp_path).dense_profile, ActivationBytes()
    found = searched(tmp_path / "two", budget=0.75, limits={"memory": Limit(memory, 0.6)})
    profile = structure_of(network(found)).profile
    assert profile.macs <= 0.75 * dense.macs
    assert memory(profile) <= 0.6 * memory(dense)
    with pytest.raises(InfeasibleBudgetError, match=r"stage prune: the budget of 10 bytes cannot be met; the smallest"):
        searched(tmp_path / "none", budget=0.75, limits={"memory": Limit(memory, 10)})


class HookedData(ToyData):
    """Changes batches where only whole trainings know of it."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch


def test_a_search_does_not_go_without_what_the_data_do_to_batches(tmp_path):
    with pytest.raises(CompressError, match="HookedData: candidates are scored without its on_after_batch_transfer"):
        searched(tmp_path, HookedData())


class Least(Searcher):
    """Proposes the smallest plan."""

    def propose(self, number):
        return self.problem.space.smallest

    def learn(self, trial, reward):
        pass


def test_a_baseline_that_fails_does_not_end_a_search_that_did_not(tmp_path, monkeypatch):
    scored = Evaluator.__call__

    def but_the_smallest(self, plan):
        if max(plan.knob("channels").values()) <= 0.25:
            raise TrialFailedError("too small")
        return scored(self, plan)

    monkeypatch.setattr(Evaluator, "__call__", but_the_smallest)
    searched(tmp_path, trials=4, baselines={"least": Least, "random": Random})
    search = search_of("prune", tmp_path / "prune", SECTION)
    assert best_of(search.baselines["least"]) is None
    assert best_of(search.baselines["random"]) is not None
    assert len(search.baselines["least"]) == len(search.points) == 4
    write_report(tmp_path / "report.html", Report("", (), Plan({}), searches=(search,)))
    assert '<td data-name="least">all failed</td>' in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(("budget", "warned"), [(2e6, True), ("2,000,000 MACs", True), (5e5, False), (1.0, False)])
def test_a_limit_that_the_dense_network_meets_is_told(budget, warned):
    cost = MACs()
    limit = Resolved(Limit(cost, budget), 1e6, cost.limit(budget, 1e6), 1.0)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        budgeted._warn_of_no_effect([limit], "prune")
    told = [str(warning.message) for warning in seen]
    assert [text.startswith("stage prune: the dense network meets the budget of 2,000,000 MACs") for text in told] == [
        True
    ] * warned
