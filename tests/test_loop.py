"""The loop: batches, scores that are no numbers, interruptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf, nan

import pytest

from lightning_compress.errors import CompressError
from lightning_compress.plan import Plan
from lightning_compress.search.ddpg import DDPG
from lightning_compress.search.executor import Executor, Outcome, outcome_of
from lightning_compress.search.journal import Journal, read
from lightning_compress.search.loop import search
from lightning_compress.search.objective import AccuracyUnderBudget, Objective
from lightning_compress.search.random import Random
from lightning_compress.search.searcher import Searcher
from lightning_compress.search.trial import Score, Trial
from lightning_compress.testing import problems
from lightning_compress.testing.executors import Watched

PROBLEM = problems.bits(layers=4)
OBJECTIVE = AccuracyUnderBudget()


class Backwards(Executor):
    """The last plan first: workers may finish in any order."""

    def __init__(self, evaluate):
        super().__init__(evaluate, workers=2)

    def run(self, plans: Mapping[int, Plan]) -> Iterator[tuple[int, Outcome]]:
        for number in reversed(plans):
            yield number, outcome_of(self.evaluate, plans[number])


class Diary(Searcher):
    """Proposes few different points, and notes what happens to it."""

    def __init__(self, *args):
        super().__init__(*args)
        self.events = []

    def propose(self, number: int) -> tuple[int, ...]:
        self.events.append(f"ask {number}")
        return self.problem.budget.project((number % 5, 0, 0, 0))

    def learn(self, trial: Trial, reward: float | None) -> None:
        self.events.append(f"tell {trial.number}" + (" failed" if reward is None else ""))


def run(path, cls, trials, evaluate=PROBLEM, objective: Objective = OBJECTIVE, loggers=(), **settings):
    searcher = cls(PROBLEM.problem, 0, objective)
    with Journal(path, {}) as journal:
        best = search(searcher, evaluate, journal, trials, loggers, **settings)
    return best, searcher


def rows(path):
    return [(e.number, e.indices, e.key, e.score) for e in read(path)]


def test_a_batch_is_asked_before_it_is_told_and_told_in_order(tmp_path):
    _, diary = run(tmp_path / "j", Diary, 5, executor=Backwards, batch=3)
    expected = ["ask 0", "ask 1", "ask 2", "tell 0", "tell 1", "tell 2", "ask 3", "ask 4", "tell 3", "tell 4"]
    assert diary.events == expected


@pytest.mark.parametrize("cls", [DDPG, Random])
def test_the_order_in_which_workers_finish_changes_nothing(cls, tmp_path):
    best, _ = run(tmp_path / "forwards", cls, 30, batch=4)
    assert run(tmp_path / "backwards", cls, 30, executor=Backwards, batch=4)[0] == best
    assert rows(tmp_path / "backwards") == rows(tmp_path / "forwards")


def test_a_searcher_that_learns_nothing_does_not_depend_on_the_batch(tmp_path):
    best, _ = run(tmp_path / "one", Random, 30)
    assert run(tmp_path / "seven", Random, 30, batch=7)[0] == best


@pytest.mark.parametrize("first", [1, 6, 9])
def test_a_search_in_parts_that_cut_a_batch_equals_one_in_whole(first, tmp_path):
    whole, _ = run(tmp_path / "whole", DDPG, 27, batch=4)
    run(tmp_path / "parts", DDPG, first, batch=4)
    assert run(tmp_path / "parts", DDPG, 27, batch=4)[0] == whole
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_trials_of_a_batch_that_make_the_same_network_are_scored_once(tmp_path):
    evaluate = Watched(tmp_path, PROBLEM)
    run(tmp_path / "j", Diary, 12, evaluate, executor=Backwards, batch=6)  # five different points: 0 and 5 are one
    assert len(evaluate.evaluations()) == 5
    entries = read(tmp_path / "j")
    assert [e.number for e in entries if e.seconds == 0.0] == list(range(5, 12))
    assert all(e.score == PROBLEM(PROBLEM.problem.space.plan(e.indices)) for e in entries)


@pytest.mark.parametrize(("score", "objective", "sentence"), [
    (Score({"val_acc": nan, "val_loss": 1.0}, {"macs": 1.0}), OBJECTIVE, "val_acc is nan"),
    (Score({"val_acc": 0.5, "val_loss": 1.0}, {"macs": inf}), OBJECTIVE, "macs is inf"),
    (Score({"val_acc": 1e308, "val_loss": -1e308}, {"macs": 1.0}), AccuracyUnderBudget(weight=10), "the reward is inf"),
])  # fmt: skip
def test_a_score_that_is_not_finite_is_a_failed_trial(score, objective, sentence, tmp_path):
    class Odd(Watched):
        def __call__(self, plan):
            return score if plan == odd else PROBLEM(plan)

    odd = PROBLEM.problem.space.plan(PROBLEM.problem.budget.project((1, 0, 0, 0)))
    _, diary = run(tmp_path / "j", Diary, 5, Odd(tmp_path), objective)
    assert "tell 1 failed" in diary.events
    assert [e.failure for e in read(tmp_path / "j")] == [None, f"the score is not finite: {sentence}", *[None] * 3]


def test_ctrl_c_leaves_a_journal_that_goes_on(tmp_path):
    class Interrupted(Watched):
        def trouble(self, plan):
            if len(self.evaluations()) == 8:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "j", DDPG, 24, Interrupted(tmp_path, PROBLEM), batch=4)
    finished = {e.key for e in read(tmp_path / "j")}
    assert len(finished) == 7
    rest = Watched(tmp_path, PROBLEM)
    before = len(rest.evaluations())
    assert run(tmp_path / "j", DDPG, 24, rest, batch=4)[0] == run(tmp_path / "whole", DDPG, 24, batch=4)[0]
    assert not finished & {digest for digest, _ in rest.evaluations()[before:]}


def test_loggers_hear_of_new_trials_in_order(tmp_path):
    class Logger:
        def __init__(self):
            self.steps = []

        def save(self):
            self.saved = list(self.steps)

        def log_metrics(self, metrics, step):
            self.steps.append(step)
            assert metrics["search/best_reward"] >= metrics["search/val_acc"] - 0.1 * metrics["search/val_loss"] - 1e-12

    logger = Logger()
    run(tmp_path / "j", Diary, 4, batch=4)
    run(tmp_path / "j", Diary, 10, loggers=[logger], executor=Backwards, batch=4)
    assert logger.saved == [4, 5, 6, 7, 8, 9]


def test_a_batch_below_one_is_refused(tmp_path):
    with pytest.raises(CompressError, match="batch must be at least 1, got 0"):
        run(tmp_path / "j", Diary, 4, batch=0)


def test_what_another_search_scored_is_not_scored_again(tmp_path):
    run(tmp_path / "a", Random, 20)
    calls = []

    class Counted:
        key = staticmethod(PROBLEM.key)

        def __call__(self, plan):
            calls.append(plan)
            return PROBLEM(plan)

    best, _ = run(tmp_path / "b", Random, 20, Counted(), known=read(tmp_path / "a"))
    assert calls == []
    assert best == run(tmp_path / "c", Random, 20)[0]
