"""A stage's search leaves plans, a Pareto front and a log; the network it starts from stays as it is."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning import Trainer

from lightning_compress.app.report.summary import search_of
from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.distillation import KnowledgeDistillation
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.evaluation import Evaluation
from lightning_compress.pipeline.planners.search import Search
from lightning_compress.pipeline.planners.search_run import FRONT
from lightning_compress.pipeline.stage import Stage
from lightning_compress.pipeline.training import FINAL, LAST
from lightning_compress.pruning.criteria.gram import Gram
from lightning_compress.pruning.criteria.l1 import L1
from lightning_compress.pruning.criteria.random import Random as RandomCriterion
from lightning_compress.search.journal import journal_name, read
from lightning_compress.search.objectives.objective import AccuracyLogCost, AccuracyUnderBudget
from lightning_compress.search.searchers.nsga2 import NSGA2
from lightning_compress.search.searchers.random import Random
from lightning_compress.surgery import measure
from lightning_compress.surgery.calibration import KEY
from lightning_compress.surgery.structure import network, structure_of
from lightning_compress.testing.toys import FullModule, PlainModule, ToyData, toy_data

EXAMPLE = torch.zeros(2, 1, 8, 8)
TRIALS, OBJECTIVE = 12, AccuracyUnderBudget()
SECTION = {
    "objective": {"_target_": "lightning_compress.search.objectives.objective.AccuracyUnderBudget"},
    "cost": {"_target_": "lightning_compress.core.costs.macs.MACs"},
}
ATTRIBUTES = {"prepare_data_per_node": False}  # one that the module has; there is no learning rate


def run_in(folder: Path) -> RunContext:
    torch.manual_seed(0)
    dense = FullModule()
    profile = measure.measure(dense.model, EXAMPLE)
    return RunContext(ToyData(), dense, profile, EXAMPLE, partial(Trainer, accelerator="cpu"), folder, 0)


def stage(trials: int = TRIALS) -> Stage:
    planner = Search(
        cost=MACs(),
        budget=0.7,
        objective=OBJECTIVE,
        searcher=NSGA2,
        baselines={"random": Random},
        trials=trials,
    )
    return Stage({"channels": ChannelPruning(criterion=Gram(), batches=2)}, planner, epochs=0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RunContext:
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
        assert plan == composition.resolve(composition.space().plan(entries[number].indices))
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
    found = {"searcher": "NSGA2", "objective": OBJECTIVE.meaning, "best": best, "trials": TRIALS, "failed": 0}
    assert json.loads((folder / "search.json").read_text())["found"] == found


class ThousandMACs(MACs):
    """A cost of a user's."""

    name = "euros"

    def __call__(self, profile):
        return super().__call__(profile) / 1000


def test_scores_have_the_costs_of_budget_and_objective_and_no_others(tmp_path):
    run, asked = run_in(tmp_path), stage(3)
    asked.planner = replace(asked.planner, cost=ThousandMACs(), objective=AccuracyLogCost(cost="parameters"))
    asked.run("prune", run.dense, run)
    folder = tmp_path / "prune"
    entries = [*read(folder / journal_name()), *read(folder / journal_name("random"))]
    assert all(entry.score.costs.keys() == {"euros", "parameters"} for entry in entries)
    assert all(entry.score.before["euros"] == run.dense_profile.macs / 1000 for entry in entries)


def test_the_search_is_logged(finished):
    lines = (finished.folder / "prune/search/log/version_0/metrics.csv").read_text().splitlines()
    assert "search/best_reward" in lines[0]
    assert len(lines) == 1 + TRIALS


def test_a_longer_search_goes_on_and_renews_the_front(finished, tmp_path):
    run = run_in(tmp_path)
    stage(4).run("prune", run.dense, run)
    stage().run("prune", run.dense, run)
    assert front_of(run) == front_of(finished)


def front_of(run: RunContext) -> list[str]:
    return sorted(file.name for file in (run.folder / "prune" / FRONT).iterdir())


def test_the_network_has_the_plan_that_a_longer_search_found(tmp_path):
    plans = []
    for trials in (2, 40):
        module = searched(tmp_path, trials=trials)
        plans.append(Plan.load(tmp_path / "prune/plan.yaml"))
        assert structure_of(network(module)).plan == plans[-1]
    assert plans[0] != plans[1]


def test_a_shorter_search_knows_nothing_of_later_trials(tmp_path):
    run, fresh = run_in(tmp_path / "cut"), run_in(tmp_path / "fresh")
    stage(TRIALS).run("prune", run.dense, run)
    for each in (run, fresh):
        stage(4).run("prune", each.dense, each)
    assert len(read(run.folder / "prune" / journal_name())) == TRIALS
    assert front_of(run) == front_of(fresh)
    plans = [Plan.load(each.folder / "prune/plan.yaml") for each in (run, fresh)]
    assert plans[0] == plans[1]
    found = [search_of("prune", each.folder / "prune", SECTION) for each in (run, fresh)]
    assert found[0] == found[1]
    assert len(found[0].points) == len(found[0].baselines["random"]) == 4


def trained(folder: Path, ratio: float = 0.5, module: PlainModule | None = None, **settings) -> PlainModule:
    run, plan = run_in(folder), Plan({"conv1": {"channels": ratio}})
    return searching(**{"epochs": 1, **settings}).with_plan(plan).run("prune", module or run.dense, run)


@pytest.mark.parametrize("checkpoint", [FINAL, LAST])
def test_a_checkpoint_of_another_plan_is_not_used(tmp_path, checkpoint):
    folders = [tmp_path / name for name in ("other", "fresh")]
    trained(folders[0])
    (folders[0] / "prune" / FINAL).rename(folders[0] / "prune" / checkpoint)
    found = [trained(folder, 0.75) for folder in folders]
    assert structure_of(network(found[0])).plan == Plan({"conv1": {"channels": 0.75}})
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in found), strict=True))


def other_network() -> PlainModule:
    torch.manual_seed(1)
    return PlainModule()


@pytest.mark.parametrize(
    "others",
    [
        {"criterion": RandomCriterion()},
        {"epochs": 2},
        {"distillation": KnowledgeDistillation},
        {"attributes": ATTRIBUTES},
        {"module": other_network()},
    ],
    ids=lambda others: next(iter(others)),
)
def test_what_was_trained_under_other_settings_is_trained_again(tmp_path, others):
    trained(tmp_path)
    times = [(tmp_path / "prune" / FINAL).stat().st_mtime_ns]
    for settings in ({}, others, others):
        trained(tmp_path, **settings)
        times.append((tmp_path / "prune" / FINAL).stat().st_mtime_ns)
    assert times[0] == times[1] < times[2] == times[3]


class OtherTrainData(ToyData):
    """Other train images."""

    def train_dataloader(self):
        return toy_data(1)[0]


@pytest.mark.parametrize(
    "others",
    [
        {"data": OtherTrainData()},
        {"make_trainer": partial(Trainer, accelerator="cpu", gradient_clip_val=0.1)},
        {"lr": 0.01},
    ],
    ids=lambda others: next(iter(others)),
)
def test_trainer_data_and_numbers_of_the_module_are_settings_of_a_training(tmp_path, others):
    times = []
    shown = {"make_trainer": partial(Trainer, accelerator="cpu", enable_progress_bar=False)}
    for changed in ({}, shown, others, others):
        run = run_in(tmp_path)
        run.dense.lr = changed.get("lr", 0.1)
        run.dense.best = len(times) / 10  # a record of its training
        run = replace(run, **{key: value for key, value in changed.items() if key != "lr"})
        searching(epochs=1).with_plan(Plan({"conv1": {"channels": 0.5}})).run("prune", run.dense, run)
        times.append((tmp_path / "prune" / FINAL).stat().st_mtime_ns)
    assert times[0] == times[1] < times[2] == times[3]


class OtherData(ToyData):
    """Other images."""

    def val_dataloader(self):
        return toy_data(1)[1]


def searching(**settings) -> Stage:
    pruning = ChannelPruning(criterion=settings.pop("criterion", L1()))
    trained = {key: settings.pop(key) for key in ("distillation", "attributes") if key in settings}
    epochs, evaluation = settings.pop("epochs", 0), Evaluation(finetune_steps=settings.pop("finetune_steps", 0))
    given = {"cost": MACs(), "budget": 0.7, "searcher": Random, "objective": OBJECTIVE, "trials": 2}
    planner = Search(evaluation=evaluation, **{**given, **settings})
    return Stage({"channels": pruning}, planner, epochs=epochs, **trained)


def searched(folder: Path, data: ToyData | None = None, **settings) -> PlainModule:
    run = run_in(folder)
    run.dense.lr = settings.pop("lr", 0.1)
    return searching(**settings).run("prune", run.dense, replace(run, data=data or run.data))


@pytest.mark.parametrize(
    ("settings", "others", "words"),
    [
        ({}, {"criterion": RandomCriterion()}, "callbacks.channel_pruning.criterion.kind was 'l1',"),
        ({"finetune_steps": 1}, {"distillation": KnowledgeDistillation}, "distillation was None, now it is {'kind'"),
        ({"finetune_steps": 1}, {"attributes": ATTRIBUTES}, "prepare_data_per_node was not set, now it is False"),
        ({"finetune_steps": 1}, {"lr": 0.01}, "module.lr was 0.1, now it is 0.01"),
        ({}, {"data": OtherData()}, "validation_data was"),
    ],
)
def test_scores_are_not_used_under_other_settings(tmp_path, settings, others, words):
    searched(tmp_path, **settings)
    with pytest.raises(CompressError, match=words):
        searched(tmp_path, **{**settings, **others})
    searched(tmp_path, **settings)


def test_how_a_network_is_trained_later_does_not_matter_to_scores_without_training(tmp_path):
    searched(tmp_path)
    searched(tmp_path, distillation=KnowledgeDistillation, attributes=ATTRIBUTES)


def test_the_network_that_came_in_is_left_alone(finished):
    fresh = run_in(finished.folder).dense
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in finished.dense.state_dict().items())
    assert KEY not in finished.dense.model.__dict__
