"""Contract suites of executors, without and with workers. Subclass one, and give the fixture ``make``.

The evaluators here score synthetic problems, write down each evaluation, and do what evaluators do on a bad day.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from time import sleep

import pytest
import torch

from lightning_compress.core.errors import CompressError, TrialFailedError
from lightning_compress.core.plan import Plan
from lightning_compress.search.executors.executor import Executor
from lightning_compress.search.trial import Score
from lightning_compress.testing import problems
from lightning_compress.testing.problems import Synthetic

Make = Callable[..., Executor]
PROBLEM = problems.bits(layers=3)
PLANS = {number: PROBLEM.problem.space.plan((number, 1, 2)) for number in range(5)}


@dataclass
class Watched:
    """Scores a synthetic problem, and writes digest and process of each evaluation to a file before it.

    Attributes:
        folder: of the file.
        problem: what is scored.
    """

    folder: Path
    problem: Synthetic = PROBLEM

    def key(self, plan: Plan) -> str:
        """Return the digest of the plan: each plan is a network of its own."""
        return self.problem.key(plan)

    def __call__(self, plan: Plan) -> Score:
        with (self.folder / "evaluations").open("a") as file:
            file.write(f"{self.key(plan)} {os.getpid()}\n")
        self.trouble(plan)
        return self.problem(plan)

    def trouble(self, plan: Plan) -> None:
        """Simulate an evaluator failure."""

    def evaluations(self) -> list[tuple[str, int]]:
        """Yield digest and process of each evaluation that was begun."""
        file = self.folder / "evaluations"
        lines = file.read_text().splitlines() if file.is_file() else []
        return [(line.split()[0], int(line.split()[1])) for line in lines]


@dataclass
class Failing(Watched):
    """One plan has no score."""

    bad: Plan = PLANS[1]

    def trouble(self, plan: Plan) -> None:
        if plan == self.bad:
            raise TrialFailedError("the training loss became nan")


class Broken(Failing):
    """One plan finds a mistake of the user's."""

    def trouble(self, plan: Plan) -> None:
        if plan == self.bad:
            raise CompressError("validation_step logs no accuracy")


class Unpicklable(Failing):
    """One plan raises an error that cannot be sent."""

    def trouble(self, plan: Plan) -> None:
        if plan == self.bad:
            raise RuntimeError("a lock", Lock())


class Deadly(Failing):
    """One plan kills its process, each time."""

    def trouble(self, plan: Plan) -> None:
        if plan == self.bad:
            os.kill(os.getpid(), signal.SIGKILL)


class DeadlyOnce(Deadly):
    """One plan kills its process, the first time."""

    def trouble(self, plan: Plan) -> None:
        if [digest for digest, _ in self.evaluations()].count(self.bad.digest) == 1:
            super().trouble(plan)


class Forking(DeadlyOnce):
    """A :class:`DeadlyOnce` that leaves a child behind, as a loader's worker may be, until its folder has ``end``."""

    def trouble(self, plan: Plan) -> None:
        if plan == self.bad and os.fork() == 0:
            for _ in range(3000):  # at most five minutes
                if not (self.folder / "end").exists():
                    sleep(0.1)
            os._exit(0)
        super().trouble(plan)


class OutOfMemory(DeadlyOnce):
    """One plan finds no memory, the first time."""

    def trouble(self, plan: Plan) -> None:
        if plan == self.bad and [digest for digest, _ in self.evaluations()].count(self.bad.digest) == 1:
            raise MemoryError


class AllocatorError(Failing):
    """One plan wants more memory than any machine has; torch's allocator on the CPU raises a plain RuntimeError."""

    def trouble(self, plan: Plan) -> None:
        if plan == self.bad:
            torch.empty(1 << 60, dtype=torch.uint8)


class Hanging(Failing):
    """One plan never ends."""

    def trouble(self, plan: Plan) -> None:
        if plan == self.bad:
            Event().wait()


class Stillborn(Watched):
    """Kills the process that unpickles it."""

    def __setstate__(self, state: dict[str, object]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def failures(executor: Executor) -> dict[int, str | None]:
    """Evaluate all :data:`PLANS`; return number -> failure, and check the scores."""
    found = dict(executor.run(PLANS))
    assert found.keys() == PLANS.keys()
    for number, outcome in found.items():
        assert (outcome.score is None) == (outcome.failure is not None)
        assert outcome.score is None or outcome.score == PROBLEM(PLANS[number])
    return {number: outcome.failure for number, outcome in found.items()}


def nothing_but(number: int, sentence: str) -> dict[int, str | None]:
    """Return all plans have a score but one."""
    return {**dict.fromkeys(PLANS), number: sentence}


class ExecutorContract:
    """Each plan is evaluated once; failures are outcomes, other errors are errors."""

    @pytest.fixture
    def make(self) -> Make:
        """Return ``(evaluate) -> executor``."""
        raise NotImplementedError

    def test_every_plan_is_scored_once(self, make, tmp_path) -> None:
        evaluate = Watched(tmp_path)
        with make(evaluate) as executor:
            assert failures(executor) == dict.fromkeys(PLANS)
            assert dict(executor.run({})) == {}
            assert failures(executor) == dict.fromkeys(PLANS)  # the workers are still there
        digests = [digest for digest, _ in evaluate.evaluations()]
        assert sorted(digests) == sorted(2 * [plan.digest for plan in PLANS.values()])
        assert len({process for _, process in evaluate.evaluations()}) <= executor.workers

    def test_a_failed_trial_is_an_outcome(self, make, tmp_path) -> None:
        with make(Failing(tmp_path)) as executor:
            assert failures(executor) == nothing_but(1, "the training loss became nan")

    def test_a_plan_without_memory_fails(self, make, tmp_path) -> None:
        with make(AllocatorError(tmp_path)) as executor:
            found = failures(executor)
        assert {number for number, failure in found.items() if failure} == {1}
        assert "it ran out of memory (" in str(found[1])

    @pytest.mark.parametrize(
        ("evaluator", "kind", "words"),
        [(Broken, CompressError, "logs no accuracy"), (Unpicklable, RuntimeError, "a lock")],
    )
    def test_other_errors_end_the_search(self, make, tmp_path, evaluator, kind, words) -> None:
        with make(evaluator(tmp_path)) as executor, pytest.raises(kind, match=words):
            failures(executor)


class PoolContract(ExecutorContract):
    """Workers that are lost are replaced. ``make`` takes ``workers``, ``time_limit`` and ``retries`` too."""

    @pytest.mark.parametrize("evaluator", [DeadlyOnce, OutOfMemory])
    def test_what_a_lost_worker_did_is_done_again(self, make, tmp_path, evaluator) -> None:
        evaluate = evaluator(tmp_path)
        with make(evaluate, retries=1) as executor:
            assert failures(executor) == dict.fromkeys(PLANS)
        assert attempts(evaluate) == [1, 2, 1, 1, 1]

    def test_a_plan_that_always_kills_its_worker_fails(self, make, tmp_path) -> None:
        evaluate = Deadly(tmp_path)
        with make(evaluate, retries=1) as executor:
            found = failures(executor)
        assert {number for number, failure in found.items() if failure} == {1}
        assert "no score after 2 attempts: its " in str(found[1])
        assert " died (" in str(found[1])
        assert attempts(evaluate) == [1, 2, 1, 1, 1]

    def test_a_plan_that_hangs_meets_the_time_limit(self, make, tmp_path) -> None:
        with make(Hanging(tmp_path), retries=0, time_limit=1.5) as executor:
            expected = nothing_but(1, "no score after 1 attempt: it ran longer than the time_limit of 1.5 s")
            assert failures(executor) == expected

    def test_workers_that_cannot_start_end_the_search(self, make, tmp_path) -> None:
        sentence = r"workers cannot be started: its .* died"
        with make(Stillborn(tmp_path), retries=1) as executor, pytest.raises(CompressError, match=sentence):
            failures(executor)

    def test_an_evaluator_that_cannot_be_sent_is_named(self, make, tmp_path) -> None:
        evaluate = Watched(tmp_path)
        vars(evaluate)["lock"] = Lock()
        with make(evaluate) as executor, pytest.raises(CompressError, match=r"cannot be sent to workers .*lock"):
            failures(executor)

    @pytest.mark.parametrize("setting", [{"workers": 0}, {"workers": 1.5}, {"retries": -1}, {"time_limit": 0.0}])
    def test_settings_out_of_range_are_refused(self, make, tmp_path, setting) -> None:
        with pytest.raises(CompressError, match=f"executor: {next(iter(setting))} must be"):
            make(Watched(tmp_path), **setting)


def attempts(evaluate: Watched) -> Sequence[int]:
    """Return how often each of :data:`PLANS` was begun."""
    digests = [digest for digest, _ in evaluate.evaluations()]
    return [digests.count(plan.digest) for plan in PLANS.values()]
