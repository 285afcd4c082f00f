"""The executor with worker processes on this machine. They share its cores, memory and visible accelerator.

Each worker is a fresh interpreter (some seconds to import torch), so use it when an evaluation takes longer than that
many times over. Workers end when this process ends, however it ends. For a machine with several accelerators, see
:mod:`lightning_compress.search.executors.ray`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import ClassVar, Literal, cast, final

import cloudpickle
import torch
from typing_extensions import override

from lightning_compress.core.plan import Plan
from lightning_compress.search.executors.executor import Evaluate, Outcome, outcome_of
from lightning_compress.search.executors.pickling import packed, portable
from lightning_compress.search.executors.pool import Lost, Pool, Ready, Worker, lost_or_raise

LOOK = 1.0  # seconds between two looks whether workers are alive


@final
class Processes(Pool["_Process"]):
    """Evaluates in ``workers`` processes.

    Args:
        evaluate, workers, time_limit, retries: see :class:`Pool`.
        threads: of torch in each worker. Another number can change the last digits of a score.
        start: ``spawn`` works everywhere; ``forkserver`` (Linux, macOS) imports torch once for all workers.

    Raises:
        CompressError: the evaluator cannot be pickled.
    """

    hint: ClassVar[str] = "a script that starts a search needs `if __name__ == '__main__':` around what it runs"

    def __init__(
        self,
        evaluate: Evaluate,
        workers: int = 2,
        time_limit: float | None = None,
        retries: int = 1,
        threads: int = 1,
        start: Literal["spawn", "forkserver"] = "spawn",
    ) -> None:
        super().__init__(evaluate, workers, time_limit, retries)
        self.threads, self._payload = threads, b""
        self._context = cast("SpawnContext | ForkServerContext", multiprocessing.get_context(start))
        self._context.set_forkserver_preload(["lightning_compress.pipeline.evaluator"])

    @override
    def start(self) -> _Process:
        self._payload = self._payload or packed(self.evaluate)
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self.threads))
        process.start()
        theirs.close()  # else the pipe stays open when the worker dies
        return _Process(process, ours, self._payload)

    @override
    def answers(
        self, workers: Iterable[_Process], timeout: float | None
    ) -> list[tuple[_Process, Ready | Outcome | Lost]]:
        # A worker may die and leave a child that holds its pipe open: then only the process itself says that it ended.
        by_connection = {worker.connection: worker for worker in workers}
        ready = wait(list(by_connection), LOOK if timeout is None else min(timeout, LOOK))
        heard = [worker for connection, worker in by_connection.items() if connection in ready or worker.ended]
        found = [(worker, worker.hear()) for worker in heard]
        return [(w, lost_or_raise(a) if isinstance(a, Exception) else a) for w, a in found if a is not None]


class _Process(Worker):
    """This side of a worker process."""

    def __init__(self, process: BaseProcess, connection: Connection, payload: bytes) -> None:
        self.process, self.connection, self.payload = process, connection, payload

    def submit(self, plan: Plan) -> None:
        with suppress(OSError):  # it died while idle: hear() will say so
            self.connection.send(plan)

    @property
    def ended(self) -> bool:
        """Whether its process is gone."""
        return not self.process.is_alive()

    def hear(self) -> Ready | Outcome | Lost | Exception | None:
        """Return the next message, or None if it only asked for the evaluator."""
        try:
            if self.ended and not self.connection.poll():
                raise EOFError
            message = self.connection.recv()
            if message is None:  # sent only now, when the other side reads: a full pipe would block this process
                self.connection.send_bytes(self.payload)
            return message
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            return Lost(f"its worker process died ({how})")

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _work(connection: Connection, threads: int) -> None:
    """Evaluate what comes through a pipe, until it is closed: all that a worker process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))  # Lightning's handler only sets a flag
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        connection.send(None)
        evaluate = cloudpickle.loads(connection.recv_bytes())
        connection.send(Ready())
        while True:
            connection.send(outcome_of(evaluate, connection.recv()))
    except Exception as error:
        connection.send(portable(error))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)
