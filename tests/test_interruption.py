"""SIGINT and SIGTERM at chosen moments: one sentence, status 130 or 143, and what was interrupted goes on.

What is interrupted runs in a forked child, as the process of its own that an application is.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.budget import Budget
from lightning_compress.core.interruption import Interrupted, interruptible
from lightning_compress.pipeline.evaluator import Evaluator
from lightning_compress.pipeline.training import LAST, fit
from lightning_compress.search.journal import Journal, read
from lightning_compress.search.loop import search
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.problem import Problem
from lightning_compress.search.searchers.random import Random
from lightning_compress.testing import problems
from lightning_compress.testing.executors import Watched
from lightning_compress.testing.toys import PlainModule, ToyData, toy_data

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
PROBLEM = problems.bits(layers=4)
LONG = 10**6  # epochs or trials that no test waits for


class Child:
    """Runs a function in a process of its own, as an application would.

    Args:
        run: the function.
        folder: what it prints goes there.
    """

    def __init__(self, run: Callable[[], object], folder: Path) -> None:
        self.printed = folder / "printed"
        self.process = os.fork()
        if not self.process:
            self._live(run)

    def _live(self, run: Callable[[], object]) -> None:
        status = 99
        try:
            sys.stderr = self.printed.open("w", buffering=1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            with interruptible():
                run()
            status = 0
        except SystemExit as error:
            status = error.code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, while the child lives."""
        while not condition():
            assert os.waitpid(self.process, os.WNOHANG) == (0, 0), self.printed.read_text()

    def interrupted_by(self, number: int) -> tuple[int, str]:
        """Exit status and what was printed, after a signal."""
        os.kill(self.process, number)
        _, status = os.waitpid(self.process, 0)
        return os.waitstatus_to_exitcode(status), self.printed.read_text()


def sentence(number: int) -> str:
    return f"interrupted by {signal.Signals(number).name}; give the same command again, and it goes on where it was\n"


def train(folder: Path, callbacks: tuple[Callback, ...] = ()) -> None:
    make_trainer = partial(Trainer, accelerator="cpu", enable_progress_bar=False)
    fit(PlainModule(), ToyData(), make_trainer, folder=folder, epochs=LONG, seed=0, callbacks=callbacks)


@pytest.mark.parametrize("number", STATUS)
def test_a_training_ends_and_goes_on(number, tmp_path):
    last, epochs = tmp_path / LAST, [-1]
    for _ in range(2):
        child = Child(partial(train, tmp_path), tmp_path)
        child.until(lambda: last.is_file() and torch.load(last, weights_only=True)["epoch"] > epochs[-1])
        assert child.interrupted_by(number) == (STATUS[number], sentence(number))
        epochs.append(torch.load(last, weights_only=True)["epoch"])
    assert epochs[2] > epochs[1] >= 0
    assert not list(tmp_path.rglob("*.part"))


class Swallow(Callback):
    """Swallows what a signal raises, as destructors do."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "reached"

    def on_train_batch_end(self, *_):
        try:
            self.file.touch()
            while True:
                pass
        except BaseException:
            self.file.unlink()


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_that_code_swallows_still_ends_a_training(number, tmp_path):
    child = Child(partial(train, tmp_path, (Swallow(tmp_path),)), tmp_path)
    child.until((tmp_path / "reached").exists)
    assert child.interrupted_by(number) == (STATUS[number], sentence(number))


def random_search(path: Path, evaluate: Callable, problem: Problem) -> None:
    with Journal(path, {}) as journal:
        search(Random(problem, 0, AccuracyUnderBudget()), evaluate, journal, LONG)


@pytest.mark.parametrize("number", STATUS)
def test_a_search_ends_while_lightning_validates_and_goes_on(number, tmp_path):
    train_batches, validation = toy_data(0)
    composition = Composition([QuantizationAwareTraining()], PlainModule().model, next(iter(validation))[0])
    evaluate = Evaluator(PlainModule, composition, train_batches, validation=validation, recalibration_batches=1)
    problem = Problem(Budget(lambda _: 0.0, 1.0, composition.space()), composition.profile, composition.predict)
    path, rows = tmp_path / "j", []
    for _ in range(2):
        child = Child(partial(random_search, path, evaluate, problem), tmp_path)
        child.until(partial(has_more, path, len(rows) + 2))
        assert child.interrupted_by(number) == (STATUS[number], sentence(number))
        before, rows = rows, read(path)
        assert rows[: len(before)] == before
        assert len(rows) > len(before)


def has_more(path: Path, rows: int) -> bool:
    try:
        return len(read(path)) > rows
    except ValueError:  # it is being made
        return False


class Deaf(Watched):
    """Swallows what a signal raises during an evaluation, and scores all the same."""

    def trouble(self, plan):
        try:
            (self.folder / "reached").touch()
            while True:
                pass
        except BaseException:
            (self.folder / "reached").unlink()


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_that_an_evaluation_swallows_ends_the_search_after_it(number, tmp_path):
    child = Child(partial(random_search, tmp_path / "j", Deaf(tmp_path, PROBLEM), PROBLEM.problem), tmp_path)
    child.until((tmp_path / "reached").exists)
    assert child.interrupted_by(number) == (STATUS[number], sentence(number))
    assert len(read(tmp_path / "j")) == 1


def test_a_handler_of_the_user_s_is_called_too_and_is_there_again_after():
    called = []
    before = signal.signal(signal.SIGTERM, lambda *_: called.append(True))
    try:
        with pytest.raises(Interrupted) as caught, interruptible(), interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
        assert caught.value.code == 143
        assert called == [True]
        os.kill(os.getpid(), signal.SIGTERM)
        assert called == [True, True]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_error_that_comes_of_a_signal_is_not_told():
    def run() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise RuntimeError("DataLoader worker is killed by signal: Terminated")

    with pytest.raises(Interrupted), interruptible():
        run()


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_changes():
    found = []

    def look() -> None:
        with interruptible():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def test_a_forked_child_dies_of_signals_as_it_would_without():
    with interruptible():
        if not (child := os.fork()):
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
