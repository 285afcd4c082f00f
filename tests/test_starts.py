"""Starts of a search: the closed form's plan and the largest uniform one are scored, and the better one is trial 0."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from test_final_choice import COST, run_search

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.errors import CompressError, TrialFailedError
from lightning_compress.core.plan import Plan
from lightning_compress.core.space import Choice, Space
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.planners.budgeted import BudgetedPlanner
from lightning_compress.pipeline.planners.planner import Planned
from lightning_compress.pipeline.planners.search_prior import ERRORS, PRIOR
from lightning_compress.pipeline.student import Student
from lightning_compress.search.journal import Journal, journal_name, read
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.greedy import Greedy
from lightning_compress.search.starts import STARTS, scored_starts
from lightning_compress.search.trial import Score

REWARD = AccuracyUnderBudget(weight=0)
SPACE = Space((Choice("a", "weight_bits", (2, 4, 8)),))


@dataclass
class Scores:
    """An evaluator of a layer whose accuracy is a tenth of its bits; 2 bits fail, and 4 and 8 make one network."""

    asked: list[Plan] = field(default_factory=list)

    def key(self, plan: Plan) -> str:
        return str(SPACE.indices(plan)[0] > 0)

    def __call__(self, plan: Plan) -> Score:
        self.asked.append(plan)
        (index,) = SPACE.indices(plan)
        if index == 0:
            raise TrialFailedError("2 bits")
        return Score({"val_acc": index / 10}, {})


def test_each_network_is_scored_once_and_not_again_when_a_search_goes_on(tmp_path):
    points = {"first": (1,), "second": (2,), "third": (0,)}
    for scored in (2, 0):
        evaluate = Scores()
        with Journal(tmp_path / STARTS, {}) as journal:
            found = scored_starts(points, SPACE, REWARD, evaluate, journal)
        assert len(evaluate.asked) == scored
        assert list(found) == list(points)
        assert found["first"] == found["second"]
        assert found["first"].score.metrics == {"val_acc": 0.1}
        assert (found["third"].score, found["third"].failure) == (None, "2 bits")


@dataclass(frozen=True, kw_only=True)
class Given(BudgetedPlanner):
    """A planner that gives every choice the value of an index, or its last one."""

    index: int

    def make_plan(self, composition: Composition, student: Student, run: RunContext, folder: Path) -> Planned:
        space = composition.space()
        point = [min(self.index, len(choice.values) - 1) for choice in space.choices]
        return Planned(space.plan(point), "given", limit=self.limit)


@pytest.mark.parametrize("index", [0, 1])
def test_a_search_starts_from_the_better_plan_and_keeps_it_when_it_goes_on(tmp_path, index):
    prior = Given(cost=COST, budget=0.3, index=index)
    _, written = run_search(tmp_path, prior=prior, searcher=Greedy)
    starts, trials = read(tmp_path / STARTS), read(tmp_path / journal_name())
    better = max(starts, key=lambda entry: AccuracyUnderBudget()(entry.score))
    assert trials[0].indices == better.indices
    assert trials[0].seconds == 0  # the score of the start
    rewards = written["found"]["best"]
    assert max(rewards["closed form"], rewards["uniform plan"]) == AccuracyUnderBudget()(trials[0].score)
    assert run_search(tmp_path, prior=prior, searcher=Greedy)[1] == written
    assert read(tmp_path / STARTS) == starts


def test_another_prior_in_the_same_folder_is_refused(tmp_path):
    run_search(tmp_path, prior=Given(cost=COST, budget=0.3, index=0), searcher=Greedy)
    with pytest.raises(CompressError, match="prior"):
        run_search(tmp_path, prior=Given(cost=COST, budget=0.3, index=1), searcher=Greedy)


def test_a_prior_over_other_choices_is_refused(tmp_path):
    prior = Given(cost=COST, budget=0.3, index=0)
    run_search(tmp_path, prior=prior, searcher=Greedy)
    with pytest.raises(CompressError, match=r"prior\.yaml: .* over other choices.*Choose another run_dir"):
        run_search(tmp_path, prior=prior, searcher=Greedy, bits=(2, 3, 8))


def test_a_damaged_prior_is_refused(tmp_path):
    prior = Given(cost=COST, budget=0.3, index=0)
    _, written = run_search(tmp_path, prior=prior, searcher=Greedy)
    (tmp_path / PRIOR).unlink()  # is for who looks at the run
    assert run_search(tmp_path, prior=prior, searcher=Greedy)[1] == written
    (tmp_path / ERRORS).write_bytes((tmp_path / ERRORS).read_bytes()[:-20])
    with pytest.raises(CompressError, match=f"{ERRORS}.* is damaged"):
        run_search(tmp_path, prior=prior, searcher=Greedy)
