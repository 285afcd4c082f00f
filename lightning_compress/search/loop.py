"""The loop: ask, evaluate, write down, tell. Killed at any moment, it goes on with the trials not yet done.

    ask n  once n - in_flight is told;  evaluate in any order, anywhere, each result written down at once
    tell in order of number, each when all before it are told

What a searcher is told, and when, follows from its seed and ``in_flight`` alone: not from the number of workers, not
from which of them was fastest, and not from where an earlier run was killed. With 1 in flight every score is told
before the next proposal. With b, a proposal is made without the scores of the b - 1 before it. That changes nothing for
Random and Uniform, which learn nothing; others find another plan. There is no end of a batch at which workers wait for
the slowest: with twice as many in flight as workers they hardly ever wait, unless candidates differ by a factor of
three or more.

An executor that compares plans (:mod:`lightning_compress.search.halving`) is given whole batches of ``in_flight``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lightning_compress.core.errors import AllTrialsFailedError, CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.search.executors.executor import Evaluate, Executor, check_workers
from lightning_compress.search.executors.scores import checked
from lightning_compress.search.executors.serial import Serial
from lightning_compress.search.journal import Entry, Journal
from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.progress_bar import progress_bar
from lightning_compress.search.searchers.searcher import Searcher, kept_randomness
from lightning_compress.search.snapshot import Snapshots
from lightning_compress.search.trial import Score, Trial


class MetricsLogger(Protocol):
    """The logger methods used by the search loop; Lightning's loggers have them."""

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
    """State of a search so far."""

    def __init__(self) -> None:
        self.best: Best | None = None
        self.cached = self.failed = 0
        self.failure = ""

    def hear(self, trial: Trial, entry: Entry, objective: Objective) -> None:
        """Count one more trial."""
        if entry.score is None:
            self.failed, self.failure = self.failed + 1, entry.failure or ""
            return
        self.cached += entry.seconds == 0
        reward = objective(entry.score)
        if self.best is None or reward > self.best.reward:
            self.best = Best(trial.plan, entry.score, reward, trial.number)


def search(
    searcher: Searcher,
    evaluate: Evaluate,
    journal: Journal,
    trials: int,
    loggers: Sequence[MetricsLogger] = (),
    executor: Callable[[Evaluate], Executor] = Serial,
    in_flight: int = 1,
    known: Iterable[Entry] = (),
) -> Best:
    """Run a search up to ``trials`` trials, those in the journal included.

    Args:
        searcher: fresh; it is told what is in the journal before it goes on, or takes it from the snapshot beside it.
        evaluate: scores plans; a plan whose key has a score is not scored again.
        journal: of this search, with the same ``in_flight``.
        trials: in all.
        loggers: told of the trials that this call adds, in order.
        executor: made for ``evaluate``; says where plans are evaluated.
        in_flight: trials that are asked and not yet told, at most.
        known: entries of other searches with the same evaluator, whose plans need no second score.

    Raises:
        CompressError: the journal was made by another searcher, every trial failed, or some workers could never have
            anything to do.
    """
    if in_flight < 1:
        raise CompressError(f"search: in_flight must be at least 1, got {in_flight}")
    finished = {entry.number: entry for entry in journal}
    old = set(finished)
    snapshots = Snapshots(journal.path.with_suffix(".snapshot"), searcher, finished)
    known_state, told, begun = snapshots.load(trials) or ({}, _Told(), [])
    vars(searcher).update(known_state)
    with executor(evaluate) as pool, progress_bar() as bar:
        check_workers(pool.workers, in_flight)
        scores = _Scores(pool, [*known, *reversed(finished.values())], searcher.objective)
        opened = _Open(searcher, finished, trials, in_flight, begun, whole=pool.compares)

        def tell(trial: Trial) -> None:
            entry = finished[trial.number]
            searcher.tell(trial, entry.score)
            told.hear(trial, entry, searcher.objective)
            if snapshots.due(trial.number + 1):
                snapshots.save((vars(searcher), told, opened.trials), trial.number + 1, searcher.asked)
            for logger in loggers if trial.number not in old else ():
                logger.log_metrics(_metrics(entry, told), trial.number)
                logger.save()

        with kept_randomness():  # a long journal is told here
            missing = opened.advance(tell)
        done = sum(number < trials for number in finished)
        task = bar.add_task(type(searcher).__name__, total=trials, completed=done, note=_note(told))
        while missing or opened:
            for entry in scores.submitted(missing) if missing else scores.waited():
                journal.append(entry)
                finished[entry.number] = entry
                bar.update(task, advance=1)
            missing = opened.advance(tell)
            bar.update(task, note=_note(told))
    if told.best is None:
        raise AllTrialsFailedError(f"search: all {searcher.asked} trials failed; the last because {told.failure}")
    return told.best


class _Open:
    """The trials that are asked and not yet told; false when there are none.

    Args:
        finished: number -> entry; the searcher must propose what is there.
        trials: in all.
        limit: of open trials.
        begun: open trials of a search that goes on.
        whole: ask only when none is open.
    """

    def __init__(
        self,
        searcher: Searcher,
        finished: Mapping[int, Entry],
        trials: int,
        limit: int,
        begun: Iterable[Trial],
        whole: bool,
    ) -> None:
        self.searcher, self.finished, self.most, self.limit, self.whole = searcher, finished, trials, limit, whole
        self._open = deque(begun)
        self._missing = [trial for trial in self._open if self._is_missing(trial)]

    def __bool__(self) -> bool:
        return bool(self._open)

    @property
    def trials(self) -> list[Trial]:
        """Those in flight, in the order in which they were asked."""
        return list(self._open)

    def advance(self, tell: Callable[[Trial], None]) -> list[Trial]:
        """Ask where there is room and tell what is finished, in turn, until trials are asked that need a score: these.

        Raises:
            CompressError: the journal has another proposal under that number.
        """
        while not (missing := self._ask()) and self._open and self._open[0].number in self.finished:
            tell(self._open.popleft())
        return missing

    def _ask(self) -> list[Trial]:
        """Ask for trials until one is not finished, whose worker then need not wait for the rest of a batch."""
        missing, self._missing = self._missing, []
        if missing or (self.whole and self._open):
            return missing
        while len(self._open) < self.limit and self.searcher.asked < self.most:
            self._open.append(self.searcher.ask())
            if self._is_missing(self._open[-1]):
                missing.append(self._open[-1])
                if not self.whole:
                    break
        return missing

    def _is_missing(self, trial: Trial) -> bool:
        """Return whether a trial needs a score.

        Raises:
            CompressError: the journal has another proposal under its number.
        """
        if trial.number not in self.finished:
            return True
        if trial.indices != (indices := self.finished[trial.number].indices):
            raise CompressError(
                f"journal: trial {trial.number} was {indices}, and the searcher now proposes {trial.indices}: "
                f"an earlier trial was deleted and has another score now, or this is of another version or setting. "
                f"Delete it and all after it (DELETE FROM trials WHERE number >= {trial.number}), or choose another "
                f"run_dir"
            )
        return False


class _Scores:
    """Entries of trials; trials that make the same network are evaluated once.

    Args:
        pool: evaluates.
        known: entries whose networks need no other score. A failure is none: with more memory or time, or on another
            machine, the network may have one.
        objective: score -> reward, which must be finite.
    """

    def __init__(self, pool: Executor, known: Iterable[Entry], objective: Objective) -> None:
        self.pool, self.objective = pool, objective
        self._known = {entry.key: entry for entry in known if entry.score is not None}
        self._alike: dict[str, list[Trial]] = {}  # key -> trials that wait for its score
        self._keys: dict[int, str] = {}

    def submitted(self, trials: Iterable[Trial]) -> Iterator[Entry]:
        """Submit trials to the pool; yield entries of those whose networks are known."""
        for trial in trials:
            key = self.pool.evaluate.key(trial.plan)
            if key in self._known:
                yield _again(trial, self._known[key])
                continue
            if key not in self._alike:
                self._keys[trial.number] = key
                self.pool.submit(trial.number, trial.plan)
            self._alike.setdefault(key, []).append(trial)

    def waited(self) -> Iterator[Entry]:
        """Wait for at least one trial; yield the entries of those that are done."""
        for number, outcome in self.pool.wait():
            key = self._keys.pop(number)
            first, *rest = self._alike.pop(key)
            outcome = checked(outcome, self.objective)
            entry = Entry(number, first.indices, key, outcome.score, outcome.failure, outcome.seconds)
            if entry.score is not None:
                self._known[key] = entry
            yield entry
            yield from (_again(trial, entry) for trial in rest)


def _again(trial: Trial, entry: Entry) -> Entry:
    return Entry(trial.number, trial.indices, entry.key, entry.score, entry.failure, 0.0)


def _metrics(entry: Entry, told: _Told) -> dict[str, float]:
    found = {} if entry.score is None else {**entry.score.metrics, **entry.score.costs}
    best = {} if told.best is None else {"best_reward": told.best.reward}
    return {f"search/{k}": v for k, v in {**found, **best, "failed": told.failed, "cached": told.cached}.items()}


def _note(told: _Told) -> str:
    best = "-" if told.best is None else f"{told.best.reward:.4f} (trial {told.best.number})"
    return f"best {best}  cached {told.cached}" + (f"  failed {told.failed}" if told.failed else "")
