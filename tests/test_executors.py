"""Executors: the contract of each in conf/, and that a search does not notice which one it runs on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hydra.utils import get_class, instantiate
from lightning import Trainer
from omegaconf import OmegaConf

import lightning_compress.conf
from lightning_compress.core.errors import CompressError
from lightning_compress.search.executors.pool import Pool
from lightning_compress.search.executors.process import Processes
from lightning_compress.search.executors.ray import RayCluster
from lightning_compress.search.executors.serial import Serial
from lightning_compress.search.journal import Journal, read
from lightning_compress.search.loop import search
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.testing import problems
from lightning_compress.testing.executors import (
    PLANS,
    ExecutorContract,
    Failing,
    Forking,
    PoolContract,
    Watched,
    failures,
    nothing_but,
)
from lightning_compress.testing.toys import QUIET, PlainModule, toy_data

CONF = Path(lightning_compress.conf.__file__).parent / "compress"
SEARCHERS = sorted((CONF / "searcher").glob("*.yaml"))
KINDS = {file: get_class(OmegaConf.load(file)._target_) for file in sorted((CONF / "executor").glob("*.yaml"))}
QUICK = {Processes: {"start": "forkserver"}}  # torch is imported once
OBJECTIVES = {
    file: instantiate(OmegaConf.load(file), **({"cost": "cost"} if "cost" in OmegaConf.load(file) else {}))
    for file in sorted((CONF / "objective").glob("*.yaml"))
}
OBJECTIVE = AccuracyUnderBudget()
PROBLEM = problems.bits(layers=4)


def maker(file):
    cls = KINDS[file]
    return lambda evaluate, **settings: instantiate(OmegaConf.load(file), **QUICK.get(cls, {}), **settings)(evaluate)


class TestContract(ExecutorContract):
    @pytest.fixture(params=[f for f, cls in KINDS.items() if not issubclass(cls, Pool)], ids=lambda file: file.stem)
    def make(self, request):
        return maker(request.param)


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError])
def test_a_plan_that_runs_out_of_memory_in_this_process_fails_and_the_others_do_not(kind, tmp_path, monkeypatch):
    freed = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(sys.exception()))

    class Large(Failing):
        def trouble(self, plan):
            if plan == self.bad:
                raise kind("tried to allocate 20 GiB")

    with Serial(Large(tmp_path)) as executor:
        assert failures(executor) == nothing_but(1, "it ran out of memory (tried to allocate 20 GiB)")
    assert freed == [None]


class TestPoolContract(PoolContract):
    @pytest.fixture(
        params=[f for f, cls in KINDS.items() if issubclass(cls, Pool) and cls is not RayCluster],  # tests/test_ray.py
        ids=lambda file: file.stem,
    )
    def make(self, request):
        return maker(request.param)


def run(file, path, trials, executor, in_flight, evaluate=PROBLEM, objective=OBJECTIVE):
    searcher = instantiate(OmegaConf.load(file))(problem=PROBLEM.problem, seed=0, objective=objective)
    with Journal(path, {"in_flight": in_flight}) as journal:
        best = search(searcher, evaluate, journal, trials, executor=executor, in_flight=in_flight)
    return best, [(e.number, e.indices, e.score) for e in read(path)]


@pytest.mark.parametrize("file", SEARCHERS, ids=lambda file: file.stem)
def test_a_search_is_the_same_with_any_number_of_workers(file, tmp_path):
    evaluate = Watched(tmp_path, PROBLEM)
    alone = run(file, tmp_path / "alone", 32, Serial, 4)
    for workers in (1, 3):
        made = partial(Processes, workers=workers, start="forkserver")
        assert run(file, tmp_path / str(workers), 32, made, 4, evaluate) == alone
    digests = [digest for digest, _ in evaluate.evaluations()]
    assert len(digests) == 2 * len(set(digests))


@dataclass
class Slow(Watched):
    """Takes the longer, the earlier a plan was found: outcomes come back in another order than they were asked in."""

    def trouble(self, plan):
        time.sleep(0.05 / len(self.evaluations()))


@pytest.mark.parametrize("file", OBJECTIVES, ids=lambda file: file.stem)
def test_no_objective_notices_in_which_order_outcomes_come_back(file, tmp_path):
    genecai = CONF / "searcher/genecai.yaml"  # it learns from each reward
    alone = run(genecai, tmp_path / "alone", 24, Serial, 4, objective=OBJECTIVES[file])
    made = partial(Processes, workers=3, start="forkserver")
    assert run(genecai, tmp_path / "three", 24, made, 4, Slow(tmp_path, PROBLEM), OBJECTIVES[file]) == alone
    assert run(genecai, tmp_path / "last", 24, Backwards, 4, objective=OBJECTIVES[file]) == alone


class Backwards(Serial):
    """Evaluates what was submitted last first."""

    def wait(self):
        self._queue.reverse()
        found = super().wait()
        self._queue.reverse()
        return found


@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_a_worker_that_leaves_a_child_behind_is_noticed_before_that_ends(tmp_path, start):
    evaluate = Forking(tmp_path)
    with Processes(evaluate, workers=1, start=start) as executor:
        found = dict(executor.run(PLANS))
        assert not (tmp_path / "end").exists()
    (tmp_path / "end").touch()
    assert {number for number, outcome in found.items() if outcome.failure} == set()


def test_more_workers_than_open_trials_are_refused(tmp_path):
    with pytest.raises(CompressError, match="with 2 trials in flight; set in_flight to 3 or more"):
        run(SEARCHERS[0], tmp_path / "j", 4, partial(Processes, workers=3), 2)


MURDER = """
import os, signal, sys
from functools import partial
from multiprocessing import parent_process
from pathlib import Path
from threading import Event
from filelock import FileLock
from lightning_compress.search.executors.process import Processes
from lightning_compress.testing.executors import Watched
sys.path.insert(0, {tests!r})
import test_executors as t

class Murderer(Watched):
    def trouble(self, plan):
        if len(self.evaluations()) == 7:
            lock = FileLock(self.folder / "alive")
            lock.acquire()
            os.kill(parent_process().pid, signal.SIGKILL)
            Event().wait()

if __name__ == "__main__":
    folder = Path({folder!r})
    murderer = Murderer(folder, t.PROBLEM)
    t.run(t.CONF / "searcher/random.yaml", folder / "killed", 12, partial(Processes, workers=2), 4, murderer)
"""


def test_workers_end_with_a_killed_parent_and_nothing_finished_is_done_again(tmp_path):
    """Run a script of its own, with the settings of conf/: fresh interpreters, a class that only the script has."""
    script = tmp_path / "murder.py"
    script.write_text(MURDER.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, done.stderr
    assert (tmp_path / "alive").exists()
    with FileLock(tmp_path / "alive", timeout=30):  # frees when the worker, which would never end by itself, is gone
        finished = {entry.key for entry in read(tmp_path / "killed")}
    evaluate = Watched(tmp_path, PROBLEM)
    before = len(evaluate.evaluations())
    assert 4 <= len(finished) < 8
    random = CONF / "searcher/random.yaml"
    found = run(random, tmp_path / "killed", 12, partial(Processes, workers=2, start="forkserver"), 4, evaluate)
    assert found == run(random, tmp_path / "whole", 12, Serial, 4)
    assert not finished & {digest for digest, _ in evaluate.evaluations()[before:]}


class Asked(PlainModule):
    """Its process is asked to end while Lightning validates, whose handler only sets a flag."""

    def validation_step(self, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_worker_that_is_asked_to_end_does_so_at_once(tmp_path):
    class Validating(Failing):
        def trouble(self, plan):
            if plan == self.bad:
                Trainer(**QUIET).validate(Asked(), toy_data(0)[1])

    with Processes(Validating(tmp_path), workers=1, retries=0, start="forkserver") as executor:
        assert failures(executor) == nothing_but(
            1, "no score after 1 attempt: its worker process died (exit status 143)"
        )


def test_a_worker_sees_as_many_threads_as_it_is_given(tmp_path):
    class Threads(Watched):
        def trouble(self, plan):
            import torch

            (self.folder / "threads").write_text(str(torch.get_num_threads()))

    with Processes(Threads(tmp_path), workers=1, threads=3, start="forkserver") as executor:
        list(executor.run({0: PROBLEM.problem.space.plan((0, 0, 0, 0))}))
    assert (tmp_path / "threads").read_text() == "3"
