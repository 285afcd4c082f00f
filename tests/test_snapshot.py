"""Snapshots: a search goes on from what it knew, and finds what it would have found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

import lightning_compress.conf
from lightning_compress.core.errors import CompressError
from lightning_compress.search import snapshot
from lightning_compress.search.journal import Journal
from lightning_compress.search.loop import Best, search
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.random import Random
from lightning_compress.search.searchers.searcher import Searcher
from lightning_compress.search.trial import Score
from lightning_compress.testing import problems

SEARCHERS = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "searcher").glob("*.yaml"))
PROBLEM = problems.bits(layers=4)
TRIALS, EVERY, IN_FLIGHT = 60, 25, 3
BETTER = Score({"val_acc": 9.0, "val_loss": 0.0}, {})


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "EVERY", EVERY)


def make(file: Path) -> Searcher:
    return instantiate(OmegaConf.load(file))(problem=PROBLEM.problem, seed=0, objective=AccuracyUnderBudget())


def unasked(searcher: Searcher) -> Searcher:
    """Return the searcher, which must not be asked for the trials that a snapshot knows."""

    class Unasked(type(searcher)):
        def propose(self, number: int) -> tuple[int, ...]:
            assert number >= EVERY
            return super().propose(number)

    searcher.__class__ = Unasked
    return searcher


def random() -> Searcher:
    return Random(PROBLEM.problem, 0, AccuracyUnderBudget())


def run(searcher: Searcher, path: Path, trials: int, in_flight: int = IN_FLIGHT) -> tuple[Best, list[tuple[int, ...]]]:
    with Journal(path, {}) as journal:
        best = search(searcher, PROBLEM, journal, trials, in_flight=in_flight)
        return best, [entry.indices for entry in journal]


@pytest.mark.parametrize("file", SEARCHERS, ids=lambda file: file.stem)
def test_a_search_that_goes_on_from_a_snapshot_is_the_uninterrupted_one(file, tmp_path):
    whole = run(make(file), tmp_path / "whole", TRIALS)
    run(make(file), tmp_path / "parts", EVERY + 3)
    assert (tmp_path / "parts.snapshot").is_file()
    assert run(unasked(make(file)), tmp_path / "parts", TRIALS) == whole


def test_a_short_search_writes_none(tmp_path):
    run(random(), tmp_path / "j", EVERY - 1)
    assert not (tmp_path / "j.snapshot").exists()


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(b"no pickle"),
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"),
        lambda path: path.unlink(),
    ],
    ids=["garbage", "truncated", "changed", "missing"],
)
def test_without_a_snapshot_all_is_told_again(harm, tmp_path):
    run(random(), tmp_path / "j", EVERY + 3)
    harm(tmp_path / "j.snapshot")
    with pytest.raises(AssertionError):
        run(unasked(random()), tmp_path / "j", TRIALS)
    whole = run(random(), tmp_path / "whole", TRIALS)
    assert run(random(), tmp_path / "j", TRIALS) == whole


def test_a_snapshot_of_other_trials_is_not_taken(tmp_path):
    run(random(), tmp_path / "j", EVERY + 3)
    with Journal(tmp_path / "j", {}) as journal:
        changed = [replace(entry, key=f"{entry.number}") for entry in journal]
        journal._db.execute("DELETE FROM trials")
        for entry in changed:
            journal.append(entry)
    with pytest.raises(AssertionError):
        run(unasked(random()), tmp_path / "j", TRIALS)


@pytest.mark.parametrize("trials", [EVERY - 5, 2 * EVERY, 2 * EVERY + 7])
def test_fewer_trials_than_the_snapshot_was_told_of_or_asked_for(trials, tmp_path):
    run(random(), tmp_path / "j", TRIALS, in_flight=10)
    for number in range(trials, TRIALS):  # the best are those that are not asked for
        with Journal(tmp_path / "j", {}) as journal:
            entry = next(entry for entry in journal if entry.number == number)
            journal.append(replace(entry, score=BETTER))
    fewer, _ = run(random(), tmp_path / "j", trials, in_flight=10)
    assert fewer == run(random(), tmp_path / "few", trials, in_flight=10)[0]


def test_open_trials_are_checked_against_the_journal(tmp_path):
    run(random(), tmp_path / "j", EVERY + 3)
    with Journal(tmp_path / "j", {}) as journal:
        entry = next(entry for entry in journal if entry.number == EVERY)
        journal.append(replace(entry, indices=(0, 0, 0, 0)))
    with pytest.raises(CompressError, match=f"trial {EVERY} was"):
        run(random(), tmp_path / "j", TRIALS)
