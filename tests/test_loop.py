"""The loop: trials in flight, scores that are no numbers, interruptions."""

from __future__ import annotations

import io
import re
from collections import deque
from heapq import heappop, heappush
from math import inf, nan

import pytest
from rich.console import Console
from rich.progress import Progress

from lightning_compress.core.errors import CompressError, TrialFailedError
from lightning_compress.core.plan import Plan
from lightning_compress.search import loop
from lightning_compress.search.executors.executor import Executor, Outcome, outcome_of
from lightning_compress.search.journal import Journal, read
from lightning_compress.search.loop import search
from lightning_compress.search.objectives.objective import AccuracyUnderBudget, Objective
from lightning_compress.search.searchers.ddpg import DDPG
from lightning_compress.search.searchers.random import Random
from lightning_compress.search.searchers.reinforce import Reinforce
from lightning_compress.search.searchers.searcher import Searcher
from lightning_compress.search.trial import Score, Trial
from lightning_compress.testing import problems
from lightning_compress.testing.executors import Failing, Watched

PROBLEM = problems.bits(layers=4)
OBJECTIVE = AccuracyUnderBudget()


class LastFirst(Executor):
    """The last plan first: workers may finish in any order."""

    def __init__(self, evaluate):
        super().__init__(evaluate, workers=2)
        self.waiting = []

    def submit(self, number: int, plan: Plan) -> None:
        self.waiting.append((number, plan))

    def wait(self) -> list[tuple[int, Outcome]]:
        number, plan = self.waiting.pop()
        return [(number, outcome_of(self.evaluate, plan))]


class Comparing(LastFirst):
    """Wants to see whole batches."""

    compares = True


class Clocked(Executor):
    """Workers whose time passes only here: a plan takes 0.25 to 0.75 s, as its digest says."""

    def __init__(self, evaluate, workers: int):
        super().__init__(evaluate, workers)
        self.now, self.work, self.queue, self.running = 0.0, 0.0, deque(), []

    def submit(self, number: int, plan: Plan) -> None:
        self.queue.append((number, plan))
        self.begin()

    def begin(self) -> None:
        while self.queue and len(self.running) < self.workers:
            number, plan = self.queue.popleft()
            seconds = 0.25 + 0.5 * int(plan.digest, 16) / 2**64
            self.work += seconds
            heappush(self.running, (self.now + seconds, number, plan))

    def wait(self) -> list[tuple[int, Outcome]]:
        self.now, number, plan = heappop(self.running)
        self.begin()
        return [(number, outcome_of(self.evaluate, plan))]


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


def run(path, cls, trials, evaluate=None, objective: Objective = OBJECTIVE, loggers=(), problem=PROBLEM, **settings):
    searcher = cls(problem.problem, 0, objective)
    with Journal(path, {}) as journal:
        best = search(searcher, evaluate or problem, journal, trials, loggers, **settings)
    return best, searcher


def rows(path):
    return [(e.number, e.indices, e.key, e.score) for e in read(path)]


def test_trials_are_asked_as_soon_as_there_is_room_and_told_in_order(tmp_path):
    _, diary = run(tmp_path / "j", Diary, 5, executor=LastFirst, in_flight=3)
    expected = ["ask 0", "ask 1", "ask 2", "tell 0", "ask 3", "tell 1", "ask 4", "tell 2", "tell 3", "tell 4"]
    assert diary.events == expected


def test_an_executor_that_compares_plans_is_given_whole_batches(tmp_path):
    _, diary = run(tmp_path / "j", Diary, 5, executor=Comparing, in_flight=3)
    expected = ["ask 0", "ask 1", "ask 2", "tell 0", "tell 1", "tell 2", "ask 3", "ask 4", "tell 3", "tell 4"]
    assert diary.events == expected


@pytest.mark.parametrize("workers", [2, 8, 32])
def test_workers_hardly_wait_with_twice_as_many_in_flight(workers, tmp_path):
    executors = []

    def make(evaluate):
        executors.append(Clocked(evaluate, workers))
        return executors[-1]

    run(tmp_path / "j", Random, 40 * workers, problem=problems.bits(layers=8), executor=make, in_flight=2 * workers)
    (executor,) = executors
    assert 0.97 < executor.work / (workers * executor.now) <= 1


@pytest.mark.parametrize("cls", [DDPG, Random])
def test_the_order_in_which_workers_finish_changes_nothing(cls, tmp_path):
    best, _ = run(tmp_path / "forwards", cls, 30, in_flight=4)
    assert run(tmp_path / "backwards", cls, 30, executor=LastFirst, in_flight=4)[0] == best
    assert rows(tmp_path / "backwards") == rows(tmp_path / "forwards")


def test_a_searcher_that_learns_nothing_does_not_depend_on_what_is_in_flight(tmp_path):
    best, _ = run(tmp_path / "one", Random, 30)
    assert run(tmp_path / "seven", Random, 30, in_flight=7)[0] == best


@pytest.mark.parametrize("first", [1, 6, 9])
def test_a_search_in_parts_equals_one_in_whole(first, tmp_path):
    whole, _ = run(tmp_path / "whole", DDPG, 27, in_flight=4)
    run(tmp_path / "parts", DDPG, first, in_flight=4)
    assert run(tmp_path / "parts", DDPG, 27, in_flight=4)[0] == whole
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_trials_in_flight_that_make_the_same_network_are_scored_once(tmp_path):
    evaluate = Watched(tmp_path, PROBLEM)
    run(tmp_path / "j", Diary, 12, evaluate, executor=LastFirst, in_flight=6)  # five different points: 0 and 5 are one
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
        run(tmp_path / "j", DDPG, 24, Interrupted(tmp_path, PROBLEM), in_flight=4)
    finished = {e.key for e in read(tmp_path / "j")}
    assert len(finished) == 7
    rest = Watched(tmp_path, PROBLEM)
    before = len(rest.evaluations())
    assert run(tmp_path / "j", DDPG, 24, rest, in_flight=4)[0] == run(tmp_path / "whole", DDPG, 24, in_flight=4)[0]
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
    run(tmp_path / "j", Diary, 4, in_flight=4)
    run(tmp_path / "j", Diary, 10, loggers=[logger], executor=LastFirst, in_flight=4)
    assert logger.saved == [4, 5, 6, 7, 8, 9]


def test_less_than_one_in_flight_is_refused(tmp_path):
    with pytest.raises(CompressError, match="in_flight must be at least 1, got 0"):
        run(tmp_path / "j", Diary, 4, in_flight=0)


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


def test_what_another_search_scored_counts_as_cached(tmp_path):
    class Logger:
        def save(self):
            pass

        def log_metrics(self, metrics, step):
            self.cached = metrics["search/cached"]

    logger = Logger()
    run(tmp_path / "a", Random, 20)
    run(tmp_path / "b", Random, 25, known=read(tmp_path / "a"), loggers=[logger])
    assert logger.cached == sum(entry.seconds == 0 for entry in read(tmp_path / "b")) >= 20


class Unlucky(Watched):
    """Has no score for plans of few bits, while there is a file ``trouble``."""

    def trouble(self, plan):
        if (self.folder / "trouble").exists() and plan.get("conv0", "weight_bits") < 4:
            raise TrialFailedError("no score after 1 attempt: it ran out of memory")


def test_a_network_that_failed_is_evaluated_when_another_search_or_trial_proposes_it(tmp_path):
    (tmp_path / "trouble").touch()
    run(tmp_path / "a", Diary, 12, Unlucky(tmp_path, PROBLEM))
    failed = [entry for entry in read(tmp_path / "a") if entry.score is None]
    assert [entry.number for entry in failed] == [0, 1, 5, 6, 10, 11]
    assert all(entry.seconds > 0 for entry in failed)
    (tmp_path / "trouble").unlink()
    run(tmp_path / "b", Diary, 12, Unlucky(tmp_path, PROBLEM), known=read(tmp_path / "a"))
    assert all(entry.score is not None for entry in read(tmp_path / "b"))


def test_a_failed_trial_that_is_deleted_is_evaluated_again_and_what_depends_on_it_is_named(tmp_path):
    bad = run(tmp_path / "first", Reinforce, 1)[0].plan
    run(tmp_path / "j", Reinforce, 40, Failing(tmp_path, PROBLEM, bad))
    with Journal(tmp_path / "j", {}) as journal:
        journal._db.execute("DELETE FROM trials WHERE number = 0")
    with pytest.raises(CompressError, match="an earlier trial was deleted and has another score now") as caught:
        run(tmp_path / "j", Reinforce, 40)
    assert read(tmp_path / "j")[0].score == PROBLEM(bad)
    with Journal(tmp_path / "j", {}) as journal:  # what the message says
        journal._db.execute(re.search(r"DELETE FROM trials WHERE number >= \d+", str(caught.value))[0])
    assert run(tmp_path / "j", Reinforce, 40)[0] == run(tmp_path / "whole", Reinforce, 40)[0]


@pytest.mark.parametrize("seconds", [14.0, 3600.0])
def test_the_time_that_is_left_is_shown_however_long_a_trial_takes(seconds):
    clock, bar = [0.0], loop.progress_bar()
    bar.get_time = lambda: clock[0]
    task = bar.add_task("Random", total=100, note="")
    for _ in range(10):
        clock[0] += seconds
        bar.update(task, advance=1)
    assert bar.tasks[0].time_remaining == 90 * seconds


def test_the_bar_shows_the_best_what_was_cached_what_failed_and_the_time_that_is_left(tmp_path, monkeypatch):
    shown = io.StringIO()
    columns = loop.progress_bar().columns
    console = Console(file=shown, width=160, force_terminal=False)
    monkeypatch.setattr(loop, "progress_bar", lambda: Progress(*columns, console=console))

    class Sometimes(Watched):
        """Two networks, by the bits of the first layer; one of them fails."""

        def key(self, plan):
            return str(plan.get(PROBLEM.problem.space.choices[0].layer, "weight_bits") > 4)

        def trouble(self, plan):
            if self.key(plan) == "True":
                raise TrialFailedError("the loss is nan")

    with Journal(tmp_path / "j", {}) as journal:
        best = search(Random(PROBLEM.problem, 0, OBJECTIVE), Sometimes(tmp_path, PROBLEM), journal, 12)
        cached = sum(entry.score is not None for entry in journal) - 1
        failed = sum(entry.score is None for entry in journal)
    assert 0 < failed < 11
    line = shown.getvalue()
    note = rf"best {best.reward:.4f} \(trial {best.number}\)  cached {cached}  failed {failed}"
    assert re.search(rf"Random .* 12/12 {note} \d:\d\d:\d\d left [\d:-]+", line)
