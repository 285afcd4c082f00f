"""The executor on a Ray cluster (https://docs.ray.io), or on all accelerators of this machine; the extra ``ray``.

Each worker is an actor that reserves ``cpus`` and ``gpus``, and sees only the accelerators that it reserved. Every
machine of the cluster needs this package, and the user's own, installed.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, final

import cloudpickle
import torch
from typing_extensions import override

from lightning_compress.core.errors import CompressError, first_line
from lightning_compress.core.plan import Plan
from lightning_compress.search.executors.executor import Evaluate, Outcome, outcome_of
from lightning_compress.search.executors.pickling import packed, portable
from lightning_compress.search.executors.pool import Lost, Pool, Ready, Worker, lost_or_raise

try:
    import ray
except ImportError:
    ray: Any = None  # type: ignore[no-redef]


@final
class RayCluster(Pool["_Actor"]):
    """Evaluates in ``workers`` Ray actors.

    Args:
        evaluate, workers, time_limit, retries: see :class:`Pool`.
        address: of a cluster, ``auto`` for the one that this machine belongs to, or None to start one here.
        cpus, gpus: that each worker reserves; fractions share a device.
        threads: of torch in each worker.

    Raises:
        CompressError: ray is not installed, or the cluster cannot be reached.
    """

    hint: ClassVar[str] = "each needs the cpus and gpus that it reserves, and this package installed where it runs"

    def __init__(
        self,
        evaluate: Evaluate,
        workers: int = 2,
        time_limit: float | None = None,
        retries: int = 1,
        address: str | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        threads: int = 1,
    ) -> None:
        super().__init__(evaluate, workers, time_limit, retries)
        if ray is None:
            raise CompressError(
                "executor: ray is not installed; pip install 'lightning-compress[ray]', or choose executor=process"
            )
        self.address, self.cpus, self.gpus, self.threads = address, cpus, gpus, threads
        self._payload: Any = None
        self._ours = False

    @override
    def start(self) -> _Actor:
        if not ray.is_initialized():
            self._connect()
        if self._payload is None:
            self._payload = ray.put(packed(self.evaluate))
        actor = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=0)(_Remote)
        return _Actor(actor.remote(self._payload, self.threads))

    def _connect(self) -> None:
        try:
            with _own_handler():
                ray.init(
                    self.address, include_dashboard=False if self.address is None else None, logging_level=logging.ERROR
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise CompressError(
                f"executor: no Ray cluster at address {self.address!r} ({error}); start one with `ray start --head`, "
                f"or set address to null"
            ) from error
        self._ours = True

    @override
    def answers(self, workers: Iterable[_Actor], timeout: float | None) -> list[tuple[_Actor, Ready | Outcome | Lost]]:
        by_future = {worker.future: worker for worker in workers if worker.future is not None}
        ready, _ = ray.wait(list(by_future), num_returns=1, timeout=timeout)
        return [(by_future[future], by_future[future].hear()) for future in ready]

    @override
    def close(self) -> None:
        super().close()
        self._payload = None
        if self._ours:
            ray.shutdown()
            self._ours = False


@contextmanager
def _own_handler() -> Iterator[None]:
    """Keep what handles SIGTERM: Ray installs a handler that ends the program with the signal's number as its status.

    Only the main thread may install one, and Ray does so only there.
    """
    before = signal.getsignal(signal.SIGTERM)
    main = threading.current_thread() is threading.main_thread() and before is not None  # None: cannot be put back
    asked = False
    try:
        yield
    except SystemExit as error:  # the signal came before this handler was back
        asked = main and error.code == signal.SIGTERM
        if not asked:
            raise
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
    if asked:
        signal.raise_signal(signal.SIGTERM)


class _Actor(Worker):
    """This side of a Ray actor."""

    def __init__(self, actor: Any) -> None:
        self.actor, self.future = actor, actor.ready.remote()

    def submit(self, plan: Plan) -> None:
        self.future = self.actor.evaluate.remote(plan)

    def hear(self) -> Ready | Outcome | Lost:
        future, self.future = self.future, None
        try:
            return ray.get(future)
        except ray.exceptions.RayTaskError as error:
            return lost_or_raise(error.cause)
        except (
            ray.exceptions.RayActorError,
            ray.exceptions.OutOfMemoryError,  # of the machine, which Ray watches; that of the evaluator is a task's
            ray.exceptions.NodeDiedError,
            ray.exceptions.WorkerCrashedError,
        ) as error:
            return Lost(f"its Ray actor died ({first_line(error)})")

    def kill(self) -> None:
        if ray.is_initialized():  # else it ended with its cluster, and Ray would start another one to look for it
            ray.kill(self.actor)


class _Remote:
    """The other side, on some machine of the cluster."""

    def __init__(self, payload: bytes, threads: int) -> None:
        torch.set_num_threads(threads)
        self.payload = payload

    def ready(self) -> Ready:
        """Unpack the evaluator; not in the constructor, whose errors Ray reports as a death."""
        try:
            self.evaluator = cloudpickle.loads(self.payload)
        except Exception as error:
            raise portable(error) from None
        return Ready()

    def evaluate(self, plan: Plan) -> Outcome:
        """Return the outcome of one plan."""
        try:
            return outcome_of(self.evaluator, plan)
        except Exception as error:
            raise portable(error) from None
