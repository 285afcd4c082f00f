"""The journal, and the loop on it: nothing finished is lost or done twice."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_compress.core.errors import CompressError, TrialFailedError
from lightning_compress.core.settings import difference
from lightning_compress.search.journal import Entry, Journal, read
from lightning_compress.search.loop import search
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.random import Random
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


@pytest.mark.parametrize("name", ["a b", "x#y", "50%", "50%25", "q?mode=rw", "é"])
def test_a_folder_may_have_any_name(tmp_path, name):
    (tmp_path / name).mkdir()
    entry = Entry(0, (1,), "k", SCORE, None, 0.25)
    with Journal(tmp_path / name / "j", {}) as journal:
        journal.append(entry)
    assert read(tmp_path / name / "j") == [entry]


def test_a_file_that_cannot_be_opened_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    run(tmp_path / "j", 1)

    def refused(*_, **__):
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(sqlite3, "connect", refused)
    with pytest.raises(CompressError, match=r"cannot be used \(unable to open"):
        read(tmp_path / "j")


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


def test_the_difference_of_two_searches_has_names_and_both_values():
    old = {"seed": 0, "searcher": {"class": "DDPG", "sigma": 0.5}, "space": [["a", "bits", [2, 3]], ["b", "bits", [2]]]}
    new = {
        "searcher": {"class": "DDPG", "sigma": 0.4},
        "space": [["a", "bits", [2, 3]], ["b", "keep", [2]]],
        "batch": 4,
    }
    assert difference(old, new) == (
        "seed was 0, now it is not set; searcher.sigma was 0.5, now it is 0.4; space[1][1] was 'bits', now it is "
        "'keep'; batch was not set, now it is 4"
    )
    assert difference(old, old) == ""
    assert difference(dict.fromkeys("abcdefgh", 1), {}).endswith("; f was 1, now it is not set; and 2 more")


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


def test_kill_9_from_outside_loses_nothing_and_changes_nothing(tmp_path):
    """At any moment; tests/test_kills.py has all searchers, and chosen moments."""
    after = 5
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
