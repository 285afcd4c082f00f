"""A stage's search leaves plans, a Pareto front and a log; the network it starts from stays as it is."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning import Trainer

from lightning_compress import trace
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.composition import Composition
from lightning_compress.cost import MACs
from lightning_compress.criteria.gram import Gram
from lightning_compress.gathered import KEY
from lightning_compress.plan import Plan
from lightning_compress.plan_search import FRONT
from lightning_compress.run import Run
from lightning_compress.search.journal import journal_name, read
from lightning_compress.search.nsga2 import NSGA2
from lightning_compress.search.objective import AccuracyUnderBudget
from lightning_compress.search.random import Random
from lightning_compress.stage import Stage
from lightning_compress.testing.toys import PlainModule, ToyData

EXAMPLE = torch.zeros(2, 1, 8, 8)
TRIALS, OBJECTIVE = 12, AccuracyUnderBudget()


def run_in(folder: Path) -> Run:
    torch.manual_seed(0)
    dense = PlainModule()
    profile = trace.measure(dense.model, EXAMPLE)
    return Run(ToyData(), dense, profile, EXAMPLE, partial(Trainer, accelerator="cpu"), folder, 0, None)


def stage(trials: int = TRIALS) -> Stage:
    return Stage(
        {"channels": ChannelPruning(criterion=Gram(), batches=2)}, MACs(), 0.7, NSGA2, {"random": Random},
        objective=OBJECTIVE, trials=trials, epochs=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    run = run_in(tmp_path_factory.mktemp("stage"))
    stage().run("prune", run.dense, run)
    return run


def test_the_front_is_of_plans_that_no_other_beats(finished):
    folder = finished.folder / "prune"
    composition = Composition([ChannelPruning(criterion=Gram())], finished.dense.model, EXAMPLE)
    entries = {entry.number: entry for entry in read(folder / journal_name())}
    cost = {n: MACs()(composition.predict(composition.space().plan(e.indices))) for n, e in entries.items()}
    reward = {n: OBJECTIVE(e.score) for n, e in entries.items()}
    front = {int(file.stem): Plan.load(file) for file in (folder / FRONT).iterdir()}
    assert front
    for number, plan in front.items():
        assert plan == composition.realise(composition.space().plan(entries[number].indices))
        assert not [n for n in entries if cost[n] < cost[number] and reward[n] >= reward[number]]
        assert not [n for n in entries if cost[n] <= cost[number] and reward[n] > reward[number]]
    best = max(reward.values())
    assert any(reward[number] == best for number in front)


def test_what_was_found_is_written_for_runs_side_by_side(finished):
    folder = finished.folder / "prune"
    best = {
        name: max(OBJECTIVE(entry.score) for entry in read(folder / journal_name(baseline)))
        for name, baseline in (("this search", ""), ("random", "random"))
    }
    found = {"searcher": "NSGA2", "objective": "AccuracyUnderBudget", "best": best, "trials": TRIALS, "failed": 0}
    assert json.loads((folder / "search.json").read_text())["found"] == found


class Euros(MACs):
    """A cost of a user's, which scores do not have."""

    def __eq__(self, other):
        return self is other

    def __call__(self, profile):
        return super().__call__(profile) / 1000


def test_costs_of_the_user_are_written_for_the_report(tmp_path):
    run, asked = run_in(tmp_path), stage(3)
    asked.cost = Euros()
    asked.run("prune", run.dense, run)
    folder = tmp_path / "prune"
    entries = [*read(folder / journal_name()), *read(folder / journal_name("random"))]
    found = json.loads((folder / "search.json").read_text())["costs"]
    assert found == {entry.key: entry.score.costs["macs"] / 1000 for entry in entries}


def test_the_search_is_logged(finished):
    lines = (finished.folder / "prune/search/log/version_0/metrics.csv").read_text().splitlines()
    assert "search/best_reward" in lines[0]
    assert len(lines) == 1 + TRIALS


def test_a_longer_search_goes_on_and_renews_the_front(finished, tmp_path):
    run = run_in(tmp_path)
    stage(4).run("prune", run.dense, run)
    (tmp_path / "prune/final.ckpt").unlink()
    stage().run("prune", run.dense, run)
    names = [sorted(file.name for file in (r.folder / "prune" / FRONT).iterdir()) for r in (run, finished)]
    assert names[0] == names[1]


def test_the_network_that_came_in_is_left_alone(finished):
    fresh = run_in(finished.folder).dense
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in finished.dense.state_dict().items())
    assert KEY not in finished.dense.model.__dict__
