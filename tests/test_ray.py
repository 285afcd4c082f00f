"""The executor on Ray, with a cluster that is started here.

Less than the whole contract, since each worker imports torch anew; the whole one is ``RayCluster`` as ``make`` of
:class:`PoolContract`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest

from lightning_compress.core.errors import CompressError
from lightning_compress.core.interruption import Interrupted, interruptible
from lightning_compress.core.plan import Plan
from lightning_compress.search.executors import ray as ray_executor
from lightning_compress.search.executors.pool import Lost
from lightning_compress.search.executors.ray import RayCluster
from lightning_compress.search.halving import Halving
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.testing.executors import (
    PLANS,
    Broken,
    DeadlyOnce,
    Failing,
    Hanging,
    Watched,
    attempts,
    failures,
)

ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


def placed(folder: Path) -> Watched:
    """Scores plans, and notes the node and the accelerators of each evaluation; sent as code, with the function."""

    class Placed(Watched):
        def trouble(self, plan: Plan) -> None:
            import ray

            context = ray.get_runtime_context()
            with (self.folder / "places").open("a") as file:
                file.write(json.dumps([os.getpid(), context.get_node_id(), ray.get_gpu_ids()]) + "\n")

    return Placed(folder)


def places(folder: Path) -> list[list]:
    """Process, node and accelerators of each evaluation."""
    return [json.loads(line) for line in (folder / "places").read_text().splitlines()]


def test_lost_workers_are_replaced_and_failures_are_outcomes(cluster, tmp_path):
    class Unlucky(Watched):  # in here, so that it is sent as code: workers cannot import this file
        """A plan that fails, one that kills its worker once, and one that never ends."""

        def trouble(self, plan: Plan) -> None:
            for evaluator, bad in ((Failing, PLANS[0]), (DeadlyOnce, PLANS[1]), (Hanging, PLANS[2])):
                evaluator(self.folder, bad=bad).trouble(plan)

    evaluate = Unlucky(tmp_path)
    with RayCluster(evaluate, workers=2, retries=1, time_limit=2.0) as executor:
        found = failures(executor)
    late = "it ran longer than the time_limit of 2 s"
    expected = {0: "the training loss became nan", 2: f"no score after 2 attempts: {late}; then {late}"}
    assert found == {**dict.fromkeys(PLANS), **expected}
    assert attempts(evaluate) == [1, 2, 2, 1, 1]


def test_an_error_of_the_user_ends_the_search(cluster, tmp_path):
    with RayCluster(Broken(tmp_path), workers=1) as executor, pytest.raises(CompressError, match="logs no accuracy"):
        failures(executor)


def test_workers_share_an_accelerator_by_fractions_and_see_no_other(cluster, tmp_path):
    with RayCluster(placed(tmp_path), workers=2, cpus=0.5, gpus=0.5) as executor:
        assert failures(executor) == dict.fromkeys(PLANS)
    found = places(tmp_path)
    assert all(gpus == [0] for _, _, gpus in found)
    assert 1 <= len({process for process, _, _ in found}) <= 2


def test_a_worker_that_reserves_none_sees_none(cluster, tmp_path):
    with RayCluster(placed(tmp_path), workers=1, cpus=0.5) as executor:
        assert failures(executor) == dict.fromkeys(PLANS)
    assert all(gpus == [] for _, _, gpus in places(tmp_path))


def test_halving_needs_no_more_workers_than_one_rung(cluster, tmp_path):
    class OnRungs(Watched):  # in here, so that it is sent as code
        """Scores the same on every rung."""

        def cheaper(self, share: float) -> OnRungs:
            return self

    evaluate = OnRungs(tmp_path)
    with Halving().over(partial(RayCluster, workers=2), AccuracyUnderBudget(), len(PLANS))(evaluate) as executor:
        assert failures(executor) == dict.fromkeys(PLANS)  # they fill the cluster
    assert len(evaluate.evaluations()) == 5 + 2 + 1
    assert len({process for _, process in evaluate.evaluations()}) <= 2


@pytest.mark.parametrize("kind", ["OutOfMemoryError", "NodeDiedError", "WorkerCrashedError"])
def test_a_worker_that_ray_ended_is_lost(kind, monkeypatch):
    error = getattr(ray.exceptions, kind)
    monkeypatch.setattr(ray_executor.ray, "get", Mock(side_effect=error(*["Low on memory"] * (kind[0] in "ON"))))
    found = ray_executor._Actor(Mock()).hear()
    assert isinstance(found, Lost)
    assert found.reason.startswith("its Ray actor died (")


def test_a_worker_that_ended_with_its_cluster_is_not_looked_for(monkeypatch):
    monkeypatch.setattr(ray_executor.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_executor.ray, "kill", Mock())
    ray_executor._Actor(Mock()).kill()
    ray_executor.ray.kill.assert_not_called()


def test_ray_that_is_not_installed_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_executor, "ray", None)
    with pytest.raises(CompressError, match=r"ray is not installed; pip install 'lightning-compress\[ray\]'"):
        RayCluster(Watched(tmp_path))


def test_a_cluster_that_is_not_there_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_executor.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_executor.ray, "init", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no GCS")))
    sentence = r"no Ray cluster at address 'auto' \(no GCS\)"
    with RayCluster(Watched(tmp_path), address="auto") as executor, pytest.raises(CompressError, match=sentence):
        list(executor.run({0: None}))


def test_a_cluster_that_others_started_is_joined_by_its_address_and_left_running(cluster, tmp_path):
    address = ray.get_runtime_context().gcs_address
    code = (  # in a process of its own, as one process is in one cluster only
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"from test_ray import PLANS, Path, RayCluster, failures, placed\n"
        f"for _ in range(2):  # twice, for the first must leave the cluster running\n"
        f"    with RayCluster(placed(Path({str(tmp_path)!r})), workers=1, address={address!r}, gpus=1) as executor:\n"
        f"        assert failures(executor) == dict.fromkeys(PLANS)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = places(tmp_path)
    assert len(found) == 2 * len(PLANS)
    assert {node for _, node, _ in found} == {ray.get_runtime_context().get_node_id()}
    assert all(gpus == [0] for _, _, gpus in found)


def test_sigterm_ends_a_program_on_ray_like_any_other(cluster, tmp_path):
    address = ray.get_runtime_context().gcs_address
    code = (  # in a process of its own: Ray replaces what handles SIGTERM where it is initialized
        f"import signal\n"
        f"from lightning_compress.core.interruption import interruptible\n"
        f"from lightning_compress.search.executors.ray import RayCluster\n"
        f"with interruptible():\n"
        f"    RayCluster(None, workers=1, address={address!r}).start()\n"
        f"    signal.raise_signal(signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, "interrupted by SIGTERM; give the same command" in done.stderr) == (143, True), done.stderr


def test_sigterm_while_ray_is_initialized_is_handled_like_any_other(monkeypatch):
    monkeypatch.setattr(ray_executor.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_executor.ray, "init", lambda *_, **__: sys.exit(signal.SIGTERM))  # as Ray's handler does
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="interrupted by SIGTERM"), interruptible():
        RayCluster(None).start()
    assert signal.getsignal(signal.SIGTERM) == before
