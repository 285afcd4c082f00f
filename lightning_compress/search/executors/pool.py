"""Base of executors with workers: hand out plans, replace workers that die or take too long.

A plan whose worker was lost is given to another one, up to ``retries`` times; then it counts as failed, so that one
candidate that kills its process cannot stop a search.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import ClassVar, Generic, TypeVar

from typing_extensions import override

from lightning_compress.core.errors import CompressError, first_line
from lightning_compress.core.plan import Plan
from lightning_compress.core.whole_numbers import check_whole
from lightning_compress.search.executors.executor import Evaluate, Executor, Outcome
from lightning_compress.search.executors.memory import is_out_of_memory

START_LIMIT = 600.0  # seconds until a worker is ready: a cluster may have to add a machine


class Worker(ABC):
    """Evaluates one plan at a time. It is ready when it has answered :class:`Ready`."""

    @abstractmethod
    def submit(self, plan: Plan) -> None:
        """Begin with a plan; returns at once."""

    @abstractmethod
    def kill(self) -> None:
        """End it now, whatever it does."""


@dataclass(frozen=True)
class Ready:
    """A worker has its evaluator and can be given a plan."""


@dataclass(frozen=True)
class Lost:
    """A worker is gone, and with it what it worked on."""

    reason: str


@dataclass(frozen=True)
class _Job:
    """A plan, and why workers were lost that had it."""

    number: int
    plan: Plan
    losses: list[str] = field(default_factory=list)


Answer = Ready | Outcome | Lost
WorkerT = TypeVar("WorkerT", bound=Worker)


class Pool(Executor, Generic[WorkerT]):
    """Executor with workers that are started when they are needed, and kept until the end.

    Args:
        evaluate: must survive pickling (cloudpickle).
        workers: at most.
        time_limit: seconds for one attempt at one plan, or None.
        retries: further attempts at a plan whose worker was lost.

    Raises:
        CompressError: no worker can be started, or a setting is out of range.
    """

    hint: ClassVar[str]  # why workers may fail to start

    def __init__(self, evaluate: Evaluate, workers: int, time_limit: float | None, retries: int) -> None:
        check_whole("executor: workers", workers, 1)
        check_whole("executor: retries", retries, 0)
        if time_limit is not None and not time_limit > 0:
            raise CompressError(f"executor: time_limit must be above 0 s, or null for none, got {time_limit}")
        super().__init__(evaluate, workers)
        self.time_limit, self.retries = time_limit, retries
        self._starting: dict[WorkerT, float] = {}
        self._idle: list[WorkerT] = []
        self._busy: dict[WorkerT, tuple[_Job, float]] = {}  # and until when
        self._queue = deque[_Job]()
        self._failed_starts = 0

    @abstractmethod
    def start(self) -> WorkerT:
        """Return a new worker, which need not be ready yet."""

    @abstractmethod
    def answers(self, workers: Iterable[WorkerT], timeout: float | None) -> list[tuple[WorkerT, Answer]]:
        """Collect worker messages; block for the first, at most ``timeout`` seconds.

        Raises:
            Exception: what the evaluator raised in a worker.
        """

    @override
    def submit(self, number: int, plan: Plan) -> None:
        self._queue.append(_Job(number, plan))
        self._hand_out()

    @override
    def wait(self) -> list[tuple[int, Outcome]]:
        done: list[tuple[int, Outcome]] = []
        while not done:
            for worker, answer in self._listen():
                job, _ = self._busy.pop(worker, (None, 0.0))
                if not isinstance(answer, Lost):
                    self._welcome(worker)
                    if job is not None and isinstance(answer, Outcome):
                        done.append((job.number, answer))
                    continue
                self._lose(worker, answer)
                if job is not None:
                    job.losses.append(answer.reason)
                    if len(job.losses) > self.retries:
                        done.append((job.number, _given_up(job.losses)))
                    else:
                        self._queue.appendleft(job)
            self._hand_out()  # first, so that no worker waits while the caller writes down what is done
        return done

    @override
    def close(self) -> None:
        for worker in [*self._starting, *self._idle, *self._busy]:
            worker.kill()
        self._starting, self._idle, self._busy = {}, [], {}
        self._queue.clear()

    def _hand_out(self) -> None:
        while self._queue and self._idle:
            worker, job = self._idle.pop(), self._queue.popleft()
            self._busy[worker] = job, monotonic() + self.time_limit if self.time_limit else inf
            worker.submit(job.plan)
        wanted = min(self.workers, len(self._busy) + len(self._queue))
        while len(self._busy) + len(self._starting) < wanted:
            self._starting[self.start()] = monotonic() + START_LIMIT

    def _listen(self) -> list[tuple[WorkerT, Answer]]:
        until = min([*self._starting.values(), *(deadline for _, deadline in self._busy.values())])
        timeout = None if until == inf else max(until - monotonic(), 0.0)
        found = self.answers([*self._starting, *self._idle, *self._busy], timeout)
        answered, now = {worker for worker, _ in found}, monotonic()
        late = [w for w, (_, deadline) in self._busy.items() if deadline <= now and w not in answered]
        found += [(w, Lost(f"it ran longer than the time_limit of {self.time_limit:g} s")) for w in late]
        slow = [w for w, deadline in self._starting.items() if deadline <= now and w not in answered]
        return found + [(w, Lost(f"a worker was not ready within {START_LIMIT:g} s")) for w in slow]

    def _welcome(self, worker: WorkerT) -> None:
        if self._starting.pop(worker, None) is not None:
            self._failed_starts = 0
        self._idle.append(worker)

    def _lose(self, worker: WorkerT, loss: Lost) -> None:
        worker.kill()
        if worker in self._idle:
            self._idle.remove(worker)
        if self._starting.pop(worker, None) is None:
            return
        self._failed_starts += 1
        if self._failed_starts > self.retries:
            raise CompressError(
                f"executor: workers cannot be started: {loss.reason}. What they printed above may say why; {self.hint}"
            )


def lost_or_raise(error: Exception) -> Lost:
    """Return that the worker is lost if memory ran out, as another attempt may do better; raise all other errors.

    Raises:
        Exception: the error, if it is not about memory.
    """
    if is_out_of_memory(error):
        return Lost(f"it ran out of memory ({first_line(error)})")
    raise error


def _given_up(reasons: list[str]) -> Outcome:
    attempts = "1 attempt" if len(reasons) == 1 else f"{len(reasons)} attempts"
    return Outcome(None, f"no score after {attempts}: {'; then '.join(reasons)}", 0.0)
