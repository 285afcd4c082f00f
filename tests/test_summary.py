"""The report says what the run's folder holds: figures, budget, and every trial of the journal."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from rich.console import Console

from lightning_compress.app.report.summary import search_of, write_summary
from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.json_record import write_record
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import Profile
from lightning_compress.export.exporter import ExportReport
from lightning_compress.pipeline.figures import Figures, declare
from lightning_compress.pipeline.result import Result
from lightning_compress.search.journal import Entry, Journal
from lightning_compress.search.trial import Score

PLANNER = {
    "objective": {
        "_target_": "lightning_compress.search.objectives.objective.AccuracyLogCost",
        "metric": "val_acc",
        "cost": "packed_bytes",
    },
    "cost": {"_target_": "lightning_compress.core.costs.packed_bytes.PackedBytes"},
}
CONFIG = {
    "compress": {"stages": {"quantize": {"planner": PLANNER}}},
    "model": {"net": {"_target_": "lightning_compress.vision.models.resnet_cifar.resnet8"}},
    "data": {
        "_target_": "lightning_compress.vision.data.torchvision_sets.TorchvisionImages",
        "make": {"_target_": "lightning_compress.vision.data.torchvision_sets.cifar10"},
    },
    "seed": 3,
    "plan": None,
}


@pytest.fixture
def result(tmp_path) -> Result:
    folder = tmp_path / "quantize"
    folder.mkdir()
    with Journal(folder / "trials.sqlite", {}) as journal:
        journal.append(Entry(0, (0,), "a", Score({"val_acc": 1.0}, {"packed_bytes": 900.0, "macs": 5.0}), None, 1.0))
        journal.append(Entry(1, (1,), "b", None, "the loss is not finite", 1.0))
        journal.append(Entry(2, (2,), "c", Score({"val_acc": 0.5}, {"packed_bytes": 800.0, "macs": 5.0}), None, 1.0))
    write_record(folder / "search.json", {"limit": 1000.0})
    figures = tuple(declare("test_acc", []))
    dense, compressed = (
        Figures(dict(zip((figure.name for figure in figures), values, strict=True)))
        for values in ((0.99, 8000, 64000, 500, 2000, 4096), (0.98, 1000, 8000, 500, 2000, 4096))
    )
    exports = {"packed": ExportReport(tmp_path / "model.safetensors", compressed.bytes)}
    return Result(
        dense,
        compressed,
        Plan({"fc": {"weight_bits": 4}}),
        12.3,
        tmp_path,
        exports=exports,
        figures=figures,
        samples=500,
    )


def test_trials_come_from_the_journal_under_the_cost_and_objective_of_the_stage(result):
    search = search_of("quantize", result.folder / "quantize", PLANNER)
    assert [(p.number, p.failed or p.cost) for p in search.points] == [(0, 900.0), (1, True), (2, 800.0)]
    assert search.points[0].reward == 0
    assert search.points[2].reward == pytest.approx(-0.5 * 6.684611727667927)  # ln 800
    assert search.points[1].failure == "the loss is not finite"
    assert search.limit == 1000.0
    assert search.cost == "size of the packed file (bytes)"


def test_the_rewards_of_the_starts_are_where_a_search_writes_them(result):
    folder = result.folder / "quantize"
    best = {"this search": 0.5, "closed form": 0.25, "uniform plan": 0.125, "random": 0.25}
    write_record(folder / "search.json", {"limit": 1000.0, "found": {"best": best}})
    assert search_of("quantize", folder, PLANNER).starts == {"closed form": 0.25, "uniform plan": 0.125}


@dataclass(frozen=True)
class Euros(Cost):
    """A cost of a user's."""

    name: ClassVar[str] = "euros"
    unit: ClassVar[str] = "euros"

    def __call__(self, profile: Profile) -> float:
        return 1.0


def test_a_cost_of_the_user_is_taken_from_the_scores(tmp_path):
    folder = tmp_path
    with Journal(folder / "trials.sqlite", {}) as journal:
        for number, cost in ((0, 7.0), (2, 8.0)):
            score = Score({"val_acc": 1.0}, {"euros": cost, "packed_bytes": 9.0})
            journal.append(Entry(number, (number,), str(number), score, None, 1.0))
    write_record(folder / "search.json", {"limit": 9.0})
    search = search_of("quantize", folder, {**PLANNER, "cost": {"_target_": f"{__name__}.Euros"}})
    assert [(p.number, p.cost) for p in search.points] == [(0, 7.0), (2, 8.0)]
    assert search.cost == "euros"


def test_baselines_stand_in_the_terminal_and_on_the_page(result):
    folder = result.folder / "quantize"
    with Journal(folder / "trials-random.sqlite", {}) as journal:
        journal.append(Entry(0, (0,), "a", Score({"val_acc": 0.75}, {"packed_bytes": 900.0}), None, 0.0))
    write_record(folder / "search.json", {"limit": 1000.0, "baselines": ["random"]})
    out = io.StringIO()
    write_summary(result, CONFIG, Console(file=out, width=200))
    for text in (out.getvalue(), (result.folder / "report.html").read_text()):
        assert "random" in text
        assert "-1.7006" in text  # - 0.25 ln 900


MEASURED = {
    "whole": 0.9,
    "layers": [
        {"layer": "fc", "knob": "channels", "tried": [[0.25, 0.89], [0.5, 0.9]], "chosen": 0.25},
        {"layer": "conv", "knob": "channels", "tried": [[0.25, None], [0.5, 0.7]], "chosen": 1.0},
    ],
}


def test_page_and_terminal_say_what_was_measured_and_that_nothing_was_searched(result):
    (result.folder / "quantize/search.json").unlink()
    write_record(result.folder / "quantize/sensitivity.json", MEASURED)
    out = io.StringIO()
    write_summary(result, CONFIG, Console(file=out, width=600))
    page = (result.folder / "report.html").read_text()
    for text in (
        "othing was searched, so there are no baselines; the plan was made from 5 evaluations",
        "(reward 0.9000) and with one layer lowered at a time",
        "The least sensitive is fc (at most 0.0100 lost), the most sensitive conv (at most 0.2000 lost).",
    ):
        assert text in out.getvalue()
        assert text in page
    for cell in (
        "<span>0.2000</span>",
        "<span>0.0000</span>",
        "<span>failed</span>",
        ">100 %</td>",
        "<span>50 %</span>",
    ):
        assert cell in page


def test_how_the_plan_of_each_stage_came_about_is_said(result):
    told = {"quantize": "the best that Random found; no baselines were run"}
    write_summary(replace(result, origins=told), CONFIG, Console(file=io.StringIO()))
    page = (result.folder / "report.html").read_text()
    assert "plan of quantize" in page
    assert told["quantize"] in page


def test_a_folder_may_have_the_name_of_a_color(result):
    out = io.StringIO()
    moved = replace(result, folder=result.folder.rename(result.folder.parent / "a[red]b"))
    write_summary(moved, CONFIG, Console(file=out, width=200))
    assert "a[red]b/plan.yaml" in out.getvalue()


def test_a_stage_that_did_not_search_has_no_trials(result):
    assert search_of("prune", result.folder / "prune", PLANNER) is None


def test_the_page_and_the_terminal_say_the_same(result):
    out = io.StringIO()
    write_summary(result, CONFIG, Console(file=out, width=200))
    page = (result.folder / "report.html").read_text()
    for text in ("98.00 %", "-1.00 points", "1,000 bytes", "8.00x less"):
        assert text in page
        assert text in out.getvalue()
    for text in (
        "resnet8 on cifar10: quantize",
        "8.0x smaller; 1.0 points lost on 500 test samples (one is 0.2); a",
        "3 trials, 1 failed",
        "the loss is not finite",
    ):
        assert text in page
    assert "model.safetensors" in out.getvalue()


def scored_again(result, accuracies):
    """Return the correlation's part of the folder: trial number -> accuracy after fine-tuning, None where it failed."""
    folder = result.folder / "quantize"
    with Journal(folder / "correlation.sqlite", {}) as journal:
        for number, accuracy in accuracies.items():
            score = None if accuracy is None else Score({"val_acc": accuracy}, {"packed_bytes": 900.0})
            journal.append(Entry(number, (number,), "abc"[number], score, "why" if score is None else None, 1.0))
    settings = {"limit": 1000.0, "correlation": {"finetune_steps": 200, "trials": list(accuracies)}}
    write_record(folder / "search.json", settings)


@pytest.mark.parametrize(("accuracies", "sentence"), [
    ({0: 0.8, 2: 0.7}, "after 200 steps of fine-tuning is 1.00 for 2 plans; unrelated ones have 0 +- 1.00 (standard"),
    ({0: 0.7, 2: 0.8}, "after 200 steps of fine-tuning is -1.00 for 2 plans;"),
    ({0: 0.7, 2: 0.7}, "cannot be said from 2 plans: all plans have the same reward; score them on more images"),
    ({0: 0.7, 2: None}, "cannot be said from 1 plan (1 more failed): needs two rewards each of at least two plans"),
    ({}, "cannot be said from 0 plans: needs two rewards each of at least two plans"),
])  # fmt: skip
def test_page_and_terminal_say_how_well_scores_rank(result, accuracies, sentence):
    scored_again(result, accuracies)
    out = io.StringIO()
    write_summary(result, CONFIG, Console(file=out, width=400))
    assert sentence in (result.folder / "report.html").read_text()
    assert sentence in out.getvalue()


def test_second_scores_of_networks_that_the_search_does_not_have_say_nothing_of_it(result):
    scored_again(result, {0: 0.8, 2: 0.7})
    with Journal(result.folder / "quantize/trials.sqlite", {}) as journal:
        journal.append(Entry(2, (1,), "other", Score({"val_acc": 0.1}, {"packed_bytes": 800.0}), None, 1.0))
    assert search_of("quantize", result.folder / "quantize", PLANNER).ranking.plans == 1


def test_page_and_terminal_say_who_was_compared_in_the_end_and_that_validation_data_were_seen(result):
    trials = [{"trial": n, "reward": 0.5 + n, "metrics": {"val_acc": 0.5}} for n in (2, 0)]
    final = {"again": True, "finetune_steps": 8, "validation_samples": 400, "trials": trials}
    written = {"limit": 1000.0, "dense": {"val_acc": 1.0}, "validation_samples": 4000, "final": final}
    write_record(result.folder / "quantize/search.json", written)
    out = io.StringIO()
    write_summary(
        replace(result, dense=Figures({**result.dense, "accuracy": 0.9})), CONFIG, Console(file=out, width=600)
    )
    for text in (out.getvalue(), (result.folder / "report.html").read_text()):
        assert "400 validation samples after 8 steps of fine-tuning: trial 2 with 2.5000, trial 0 with" in text
        assert "scores 100.00 % on the 4,000 validation samples and 90.00 % on the 500 test samples" in text


def test_the_budget_of_each_stage_is_said(result):
    write_summary(replace(result, limits={"quantize": "at most 9 bytes"}), CONFIG, Console(file=io.StringIO()))
    assert "quantize: at most 9 bytes" in (result.folder / "report.html").read_text()


def test_a_budget_that_was_not_used_is_not_claimed(result):
    write_summary(result, CONFIG, Console(file=io.StringIO()))
    page = (result.folder / "report.html").read_text()
    assert "at most" not in page
    assert "nothing was searched" in page


def test_networks_that_are_no_classifiers_of_ours_are_reported_too(result):
    out, own = io.StringIO(), {**CONFIG, "model": {"_target_": "mine.Regressor"}}
    write_summary(replace(result, figures=tuple(declare("test_mse", []))), own, Console(file=out, width=200))
    assert re.search(r"test_mse +│ +0.99 │ +0.98 │ 1.01x less", out.getvalue())
    assert "<h1>Regressor on " in (result.folder / "report.html").read_text()
