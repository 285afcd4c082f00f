"""The final choice: who is compared, by which scores, and what the report says of them."""

from __future__ import annotations

import copy
import json
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from lightning_compress.app.report.final_choice import Final, Finalist, seen_sentence
from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.errors import CompressError
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.evaluation import Evaluation
from lightning_compress.pipeline.planners.output_error import OutputError
from lightning_compress.pipeline.planners.search import Search
from lightning_compress.pipeline.student import Student
from lightning_compress.search.final_choice import FINAL_CHOICE, FinalChoice
from lightning_compress.search.journal import Entry, journal_name, read
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.random import Random
from lightning_compress.search.searchers.searcher import Searcher
from lightning_compress.search.trial import Score
from lightning_compress.surgery import measure
from lightning_compress.testing.toys import PlainModule, ToyData

REWARD = AccuracyUnderBudget(weight=0)
EXAMPLE = torch.zeros(2, 1, 8, 8)
COST = PackedBytes()


def entry(number: int, accuracy: float | None, key: str = "") -> Entry:
    score = None if accuracy is None else Score({"val_acc": accuracy}, {})
    return Entry(number, (number,), key or str(number), score, "why" if score is None else None, 1.0)


@pytest.mark.parametrize(
    ("accuracies", "plans", "start", "expected"),
    [
        ([0.5, 0.9, 0.7, 0.8], 2, False, [1, 3]),
        ([0.5, 0.9, 0.7, 0.8], 2, True, [1, 3, 0]),
        ([0.9, 0.5, 0.7], 2, True, [0, 2]),
        ([0.7, 0.7, None], 3, True, [0, 1]),
        ([None, 0.7, 0.8], 1, True, [2]),
    ],
)
def test_the_best_and_the_start_are_compared(accuracies, plans, start, expected):
    entries = [entry(i, accuracy) for i, accuracy in enumerate(accuracies)]
    assert [found.number for found in FinalChoice(plans).finalists(entries, REWARD, start)] == expected


def test_a_network_is_compared_once():
    entries = [entry(0, 0.5), entry(1, 0.9, "same"), entry(2, 0.9, "same"), entry(3, 0.8)]
    assert [found.number for found in FinalChoice(2).finalists(entries, REWARD, start=False)] == [1, 3]


@pytest.mark.parametrize(("given", "words"), [({"plans": 0}, "plans must be 1"), ({"finetune_steps": -1}, "0 or more")])
def test_numbers_that_cannot_be_are_refused(given, words):
    with pytest.raises(CompressError, match=words):
        FinalChoice(**given)


def run_search(
    folder: Path,
    *,
    searcher: type[Searcher] = Random,
    validation_batches: int | None = None,
    bits: tuple[int, ...] = (2, 4, 8),
    **settings: Any,
) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Run it in a folder; return the point of the plan that it chose, and what it wrote.

    Args:
        folder: of the stage.
        searcher: class of the searcher.
        validation_batches: that score a candidate; None takes all.
        bits: of weights, among which it chooses.
        settings: more of :class:`Search`.
    """
    torch.manual_seed(0)
    module = PlainModule()
    profile = measure.measure(module.model, EXAMPLE)
    run = RunContext(ToyData(), module, profile, EXAMPLE, partial(Trainer, accelerator="cpu"), folder.parent, 0)
    planner = Search(
        cost=COST,
        budget=0.3,
        searcher=searcher,
        trials=5,
        objective=AccuracyUnderBudget(),
        evaluation=Evaluation(recalibration_batches=1, validation_batches=validation_batches),
        **settings,
    )
    quantization = QuantizationAwareTraining(weight_bits=bits, act_bits=(8,))
    composition = Composition([quantization], module.model, EXAMPLE)
    plan = planner.make_plan(composition, Student(copy.deepcopy(module)), run, folder).plan
    return composition.space().indices(plan), json.loads((folder / "search.json").read_text())


def test_scores_on_all_validation_data_stand(tmp_path):
    point, written = run_search(tmp_path)
    entries = read(tmp_path / journal_name())
    assert point == max(entries, key=lambda found: AccuracyUnderBudget()(found.score)).indices
    assert not (tmp_path / FINAL_CHOICE).exists()
    assert not written["final"]["again"]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({"validation_batches": 1}, 0), ({"final_choice": FinalChoice(2, finetune_steps=3)}, 3)],
    ids=["all validation data", "fine-tuned"],
)
def test_the_best_second_score_decides(tmp_path, settings, steps):
    prior = OutputError(cost=COST, budget=0.3, batches=1)
    point, written = run_search(tmp_path, prior=prior, **settings)
    again = read(tmp_path / FINAL_CHOICE)
    best = max(again, key=lambda found: AccuracyUnderBudget()(found.score))
    assert point == best.indices
    final = written["final"]
    assert (final["again"], final["finetune_steps"]) == (True, steps)
    assert final["trials"][0]["trial"] == best.number
    assert {found["trial"] for found in final["trials"]} == {found.number for found in again}
    assert 0 in {found.number for found in again} or len(again) >= 2
    first = [found.seconds for found in again]
    assert run_search(tmp_path, prior=prior, **settings)[0] == point  # nothing is scored another time
    assert [found.seconds for found in read(tmp_path / FINAL_CHOICE)] == first


def test_without_it_the_highest_score_is_taken(tmp_path):
    _, written = run_search(tmp_path, final_choice=None)
    assert "final" not in written


def test_the_report_names_differences_beyond_chance():
    # sqrt(0.8 * 0.2 / 1600) = 0.01: two standard errors of a difference are about 0.028.
    final = Final((Finalist(7, 0.79, 0.80), Finalist(3, 0.78, 0.79), Finalist(0, 0.7, 0.7)), 1600, 20, again=True)
    assert final.sentence == (
        "Final choice, scored again on all 1,600 validation samples after 20 steps of fine-tuning: "
        "trial 7 with 0.7900 (accuracy 0.8000 +- 0.0100), trial 3 with 0.7800 (accuracy 0.7900 +- 0.0102), "
        "trial 0 with 0.7000 (accuracy 0.7000 +- 0.0115); trial 7 is taken. It differs beyond 2 standard errors from "
        "trial 0, and within 2 standard errors, which may be chance, from trial 3."
    )


def test_rewards_that_are_no_accuracies_have_no_standard_error():
    final = Final((Finalist(7, -0.79), Finalist(3, -0.8)), 1600, 0, again=False)
    assert final.sentence == (
        "Final choice, by the same scores: trial 7 with -0.7900, trial 3 with -0.8000; trial 7 is taken."
    )


def test_validation_data_that_were_trained_on_are_noticed():
    error = sqrt(0.9 * 0.1 / 5000 + 0.9 * 0.1 / 10000)
    assert seen_sentence(0.9 + 2 * error, 5000, 0.9, 10000) == ""
    assert seen_sentence(0.8, 5000, 0.9, 10000) == ""  # harder data, not seen ones
    assert "99.30 % on the 5,000 validation samples and 92.55 % on the 10,000" in (
        seen_sentence(0.993, 5000, 0.9255, 10000)
    )
    assert seen_sentence(0.99, 0, 0.9, 100) == ""
