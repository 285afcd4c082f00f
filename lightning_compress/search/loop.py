"""The loop: ask a batch, evaluate it, write down, tell. Killed at any moment, it goes on with the trials not yet done.

    ask n_0 .. n_0 + b - 1;  evaluate in any order, anywhere, each result written down at once;  tell in order of number

What a searcher is told, and when, follows from its seed and the batch ``b`` alone: not from the number of workers, not
from which of them was fastest, and not from where an earlier run was killed. A batch of 1 tells every score before the
next proposal. In a larger one, proposals are made with what was known when the batch began. That changes nothing for
Random and Uniform, which learn nothing, nor for a method that learns once a generation if b divides the generation;
DDPG, which learns from each score, hears it up to b - 1 proposals later and finds another plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lightning_compress.errors import CompressError
from lightning_compress.plan import Plan
from lightning_compress.search.executor import Evaluate, Executor, Outcome
from lightning_compress.search.journal import Entry, Journal
from lightning_compress.search.objective import Objective
from lightning_compress.search.searcher import Searcher, kept_randomness
from lightning_compress.search.serial import Serial
from lightning_compress.search.trial import Score, Trial


class MetricsLogger(Protocol):
    """What a search asks of a logger; Lightning's have it."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Take the figures of one trial."""

    def save(self) -> None:
        """Write what was taken."""


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
        self.keys: set[str] = set()
        self.best: Best | None = None
        self.cached = self.failed = 0
        self.failure = ""

    def tell(self, trial: Trial, entry: Entry) -> None:
        self.cached += entry.key in self.keys
        self.keys.add(entry.key)
        self.searcher.tell(trial, entry.score)
        if entry.score is None:
            self.failed, self.failure = self.failed + 1, entry.failure or ""
            return
        reward = self.searcher.objective(entry.score)
        if self.best is None or reward > self.best.reward:
            self.best = Best(trial.plan, entry.score, reward, trial.number)


def search(
    searcher: Searcher,
    evaluate: Evaluate,
    journal: Journal,
    trials: int,
    loggers: Sequence[MetricsLogger] = (),
    executor: Callable[[Evaluate], Executor] = Serial,
    batch: int = 1,
    known: Iterable[Entry] = (),
) -> Best:
    """Run a search up to ``trials`` trials, those in the journal included.

    Args:
        searcher: fresh; it is told what is in the journal before it goes on.
        evaluate: scores plans; a plan whose key was scored before is not scored again.
        journal: of this search, with the same ``batch``.
        trials: in all.
        loggers: told of the trials that this call adds, in order.
        executor: made for ``evaluate``; says where plans are evaluated.
        batch: trials that are asked before any of them is told.
        known: entries of other searches with the same evaluator, whose plans need no second score.

    Raises:
        CompressError: the journal was made by another searcher, every trial failed, or some workers could never have
            anything to do.
    """
    if batch < 1:
        raise CompressError(f"search: batch must be at least 1, got {batch}")
    told, finished = _Told(searcher), {entry.number: entry for entry in journal}
    scored = {entry.key: entry for entry in [*known, *reversed(finished.values())]}
    with executor(evaluate) as pool, progress() as bar:
        if pool.workers > batch:
            raise CompressError(
                f"search: of {pool.workers} workers some would never have anything to do with a batch of {batch}; set "
                f"batch to {pool.workers} or more (it is part of the search: another batch finds another plan)"
            )
        with kept_randomness():
            while (coming := _coming(searcher, batch, trials)) and all(number in finished for number in coming):
                for trial in _ask(coming, searcher, finished):
                    told.tell(trial, finished[trial.number])
        task = bar.add_task(type(searcher).__name__, total=trials, completed=searcher.asked, note=_note(told))
        while coming := _coming(searcher, batch, trials):
            opened = _ask(coming, searcher, finished)
            missing = [trial for trial in opened if trial.number not in finished]
            bar.update(task, completed=coming.stop - len(missing))
            for entry in _evaluated(missing, pool, scored, searcher.objective):
                journal.append(entry)
                finished[entry.number] = entry
                bar.update(task, advance=1)
            for trial in opened:
                told.tell(trial, finished[trial.number])
                for logger in loggers:
                    logger.log_metrics(_metrics(finished[trial.number], told), trial.number)
                    logger.save()
            bar.update(task, note=_note(told))
    if told.best is None:
        raise CompressError(f"search: all {searcher.asked} trials failed; the last because {told.failure}")
    return told.best


def _coming(searcher: Searcher, batch: int, trials: int) -> range:
    """Numbers of the next batch; the last one may be cut short, and is asked whole when the search goes on later."""
    return range(searcher.asked, min(searcher.asked + batch, trials))


def _ask(numbers: range, searcher: Searcher, finished: Mapping[int, Entry]) -> list[Trial]:
    """The proposals of a batch.

    Raises:
        CompressError: the journal has another one under that number.
    """
    opened = [searcher.ask() for _ in numbers]
    for trial in opened:
        indices = finished[trial.number].indices if trial.number in finished else trial.indices
        if trial.indices != indices:
            raise CompressError(
                f"journal: trial {trial.number} was {indices}, and the searcher now proposes {trial.indices}: "
                f"it was written by another version or setting. Choose another run_dir"
            )
    return opened


def _evaluated(
    trials: Iterable[Trial], pool: Executor, scored: dict[str, Entry], objective: Objective
) -> Iterator[Entry]:
    """Entries of the trials as they get finished; trials that make the same network are evaluated once."""
    alike: dict[str, list[Trial]] = {}
    for trial in trials:
        alike.setdefault(pool.evaluate.key(trial.plan), []).append(trial)
    for key in [key for key in alike if key in scored]:
        yield from (_again(trial, scored[key]) for trial in alike.pop(key))
    keys = {group[0].number: key for key, group in alike.items()}
    for number, outcome in pool.run({group[0].number: group[0].plan for group in alike.values()}):
        first, *rest = alike[keys[number]]
        outcome = checked(outcome, objective)
        entry = Entry(number, first.indices, keys[number], outcome.score, outcome.failure, outcome.seconds)
        scored[entry.key] = entry
        yield entry
        yield from (_again(trial, entry) for trial in rest)


def _again(trial: Trial, entry: Entry) -> Entry:
    return Entry(trial.number, trial.indices, entry.key, entry.score, entry.failure, 0.0)


def checked(outcome: Outcome, objective: Objective) -> Outcome:
    """The outcome; a failure if its score or reward is not finite."""
    if outcome.score is None:
        return outcome
    values = {**outcome.score.metrics, **outcome.score.costs}
    broken = [f"{name} is {value}" for name, value in values.items() if not isfinite(value)]
    if not broken and not isfinite(reward := objective(outcome.score)):
        broken = [f"the reward is {reward}"]
    return Outcome(None, f"the score is not finite: {', '.join(broken)}", outcome.seconds) if broken else outcome


def _metrics(entry: Entry, told: _Told) -> dict[str, float]:
    found = {} if entry.score is None else {**entry.score.metrics, **entry.score.costs}
    best = {} if told.best is None else {"best_reward": told.best.reward}
    return {f"search/{k}": v for k, v in {**found, **best, "failed": told.failed, "cached": told.cached}.items()}


def _note(told: _Told) -> str:
    best = "-" if told.best is None else f"{told.best.reward:.4f} (trial {told.best.number})"
    return f"best {best}  cached {told.cached}" + (f"  failed {told.failed}" if told.failed else "")


def progress() -> Progress:
    """The bar of a search; its tasks have a ``note``."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
