"""The journal, and the loop on it: nothing finished is lost or done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_compress.errors import CompressError, TrialFailedError
from lightning_compress.search.journal import Entry, Journal, read
from lightning_compress.search.loop import search
from lightning_compress.search.objective import AccuracyUnderBudget
from lightning_compress.search.random import Random
from lightning_compress.search.trial import Score
from lightning_compress.testing import problems

PROBLEM = problems.bits(layers=4)
SCORE = Score({"val_acc": 0.5, "val_loss": 1.0}, {"macs": 3.0})


class Counting:
    """Scores plans, and counts how often; some fail."""

    def __init__(self, failing=()):
        self.calls, self.failing = [], failing

    def key(self, plan):
        return plan.digest

    def __call__(self, plan):
        self.calls.append(plan)
        if len(self.calls) - 1 in self.failing:
            raise TrialFailedError("the training loss became nan")
        return PROBLEM(plan)


def random_search(seed=0):
    return Random(PROBLEM.problem, seed, AccuracyUnderBudget())


def run(path, trials, evaluate=None, seed=0):
    with Journal(path, {"seed": seed}) as journal:
        return search(random_search(seed), evaluate or Counting(), journal, trials)


def test_entries_come_back_as_they_went(tmp_path):
    entries = [Entry(0, (1, 2), "k", SCORE, None, 0.25), Entry(1, (0, 0), "l", None, "why", 0.5)]
    with Journal(tmp_path / "j", {}) as journal:
        for entry in entries:
            journal.append(entry)
    assert read(tmp_path / "j") == entries


def test_a_search_in_two_parts_equals_one_in_whole(tmp_path):
    whole = run(tmp_path / "whole", 20)
    run(tmp_path / "parts", 7)
    evaluate = Counting()
    assert run(tmp_path / "parts", 20, evaluate) == whole
    assert len(evaluate.calls) <= 13
    assert [e.indices for e in read(tmp_path / "parts")] == [e.indices for e in read(tmp_path / "whole")]


def test_equal_networks_are_scored_once(tmp_path):
    class Same(Counting):
        def key(self, plan):
            return "same"

    evaluate = Same()
    run(tmp_path / "j", 10, evaluate)
    assert len(evaluate.calls) == 1


def test_a_failed_trial_is_noted_and_the_search_goes_on(tmp_path):
    run(tmp_path / "j", 6, Counting(failing={1, 2}))
    entries = read(tmp_path / "j")
    assert [e.score is None for e in entries] == [False, True, True, False, False, False]
    assert entries[1].failure == "the training loss became nan"


def test_a_search_in_which_all_fails_says_why(tmp_path):
    with pytest.raises(CompressError, match="all 3 trials failed; the last because the training loss became nan"):
        run(tmp_path / "j", 3, Counting(failing=range(3)))


def test_another_search_is_refused_with_what_differs(tmp_path):
    run(tmp_path / "j", 2, seed=0)
    with pytest.raises(CompressError, match="its seed was 0, now it is 1"):
        run(tmp_path / "j", 2, seed=1)


def test_a_changed_searcher_is_noticed(tmp_path):
    run(tmp_path / "j", 2)
    with Journal(tmp_path / "j", {"seed": 0}) as journal, pytest.raises(CompressError, match="trial 0 was"):
        search(random_search(5), Counting(), journal, 4)


def test_a_second_process_is_refused(tmp_path):
    code = f"from lightning_compress.search.journal import Journal; Journal({str(tmp_path / 'j')!r}, {{}})"
    with Journal(tmp_path / "j", {}):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert other.returncode != 0
    assert "another process is searching in" in other.stderr


def test_a_foreign_file_is_refused(tmp_path):
    (tmp_path / "j").write_text("no database, and longer than a header of one would be" * 10)
    with pytest.raises(CompressError, match="cannot be used"):
        Journal(tmp_path / "j", {})


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CompressError, match="cannot write to"):
        Journal(tmp_path / "file" / "j", {})


def test_what_cannot_be_written_leaves_what_was(tmp_path):
    with Journal(tmp_path / "j", {}) as journal:
        journal.append(Entry(0, (), "k", SCORE, None, 0.0))
        journal._db.execute("PRAGMA max_page_count = 1")
        with pytest.raises(CompressError, match=r"trial 1 could not be written .*full"):
            journal.append(Entry(1, (0,) * 100_000, "k", SCORE, None, 0.0))
    assert len(read(tmp_path / "j")) == 1


KILLED = """
import sys
sys.path.insert(0, {tests!r})
import test_journal as t
class Slow(t.Counting):
    def __call__(self, plan):
        for _ in range(1500):  # long enough to be killed in between
            t.PROBLEM(plan)
        return super().__call__(plan)
t.run({path!r}, 40, Slow())
"""


@pytest.mark.parametrize("after", [1, 5, 17])
def test_kill_9_loses_nothing_and_changes_nothing(after, tmp_path):
    whole = run(tmp_path / "whole", 40)
    path = tmp_path / "killed"
    code = KILLED.format(tests=str(Path(__file__).parent), path=str(path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and count(path) < after:
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = read(path)
    assert after <= len(finished) < 40
    assert run(path, 40) == whole
    assert read(path)[: len(finished)] == finished


def count(path: Path) -> int:
    try:
        return len(read(path))
    except CompressError:  # being made
        return 0
