"""The loop: ask, evaluate, write down, tell. Killed at any moment, it goes on with the next trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lightning_compress.errors import CompressError, TrialFailedError
from lightning_compress.plan import Plan
from lightning_compress.search.journal import Entry, Journal
from lightning_compress.search.searcher import Searcher
from lightning_compress.search.trial import Score, Trial


class Evaluate(Protocol):
    """What the loop needs of an evaluator."""

    def key(self, plan: Plan) -> str:
        """Digest of what the plan materialises to."""

    def __call__(self, plan: Plan) -> Score:
        """The score, or :class:`TrialFailedError`."""


@dataclass(frozen=True)
class Best:
    """The trial with the highest reward; the earliest of equals."""

    plan: Plan
    score: Score
    reward: float
    number: int


class _Told:
    """Tells the searcher, and keeps what is known so far."""

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher
        self.known: dict[str, Entry] = {}
        self.best: Best | None = None
        self.cached = self.failed = 0
        self.failure = ""

    def tell(self, trial: Trial, entry: Entry) -> None:
        self.cached += entry.key in self.known
        self.known.setdefault(entry.key, entry)
        self.searcher.tell(trial, entry.score)
        if entry.score is None:
            self.failed, self.failure = self.failed + 1, entry.failure or ""
            return
        reward = self.searcher.objective(entry.score)
        if self.best is None or reward > self.best.reward:
            self.best = Best(trial.plan, entry.score, reward, trial.number)


def search(searcher: Searcher, evaluate: Evaluate, journal: Journal, trials: int, loggers: Sequence[Any] = ()) -> Best:
    """Run a search up to ``trials`` trials, those in the journal included.

    Args:
        searcher: fresh; it is told what is in the journal before it goes on.
        evaluate: scores plans; a plan whose key was scored before is not scored again.
        journal: of this search.
        trials: in all.
        loggers: with ``log_metrics(metrics, step)``, as Lightning's.

    Raises:
        CompressError: the journal was made by another searcher, or every trial failed.
    """
    told = _Told(searcher)
    for entry in list(journal)[:trials]:
        trial = searcher.ask()
        if trial.indices != entry.indices:
            raise CompressError(
                f"journal: trial {entry.number} was {entry.indices}, and the searcher now proposes {trial.indices}: "
                f"it was written by another version or setting. Choose another run_dir"
            )
        told.tell(trial, entry)
    with _bar() as bar:
        task = bar.add_task("search", total=trials, completed=searcher.asked, note=_note(told))
        while searcher.asked < trials:
            trial = searcher.ask()
            entry = _evaluate(trial, evaluate, told.known)
            journal.append(entry)
            told.tell(trial, entry)
            bar.update(task, advance=1, note=_note(told))
            for logger in loggers:
                logger.log_metrics(_metrics(entry, told), trial.number)
    if told.best is None:
        raise CompressError(f"search: all {searcher.asked} trials failed; the last because {told.failure}")
    return told.best


def _evaluate(trial: Trial, evaluate: Evaluate, known: dict[str, Entry]) -> Entry:
    key = evaluate.key(trial.plan)
    if key in known:
        return Entry(trial.number, trial.indices, key, known[key].score, known[key].failure, 0.0)
    began = perf_counter()
    score, failure = None, None
    try:
        score = evaluate(trial.plan)
    except TrialFailedError as error:
        failure = str(error)
    return Entry(trial.number, trial.indices, key, score, failure, perf_counter() - began)


def _metrics(entry: Entry, told: _Told) -> dict[str, float]:
    found = {} if entry.score is None else {**entry.score.metrics, **entry.score.costs}
    best = {} if told.best is None else {"best_reward": told.best.reward}
    return {f"search/{k}": v for k, v in {**found, **best, "failed": told.failed, "cached": told.cached}.items()}


def _note(told: _Told) -> str:
    best = "-" if told.best is None else f"{told.best.reward:.4f} (trial {told.best.number})"
    return f"best {best}  cached {told.cached}" + (f"  failed {told.failed}" if told.failed else "")


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
