"""The executor on Ray, with a cluster that is started here.

Less than the whole contract, since each worker imports torch anew; the whole one is ``RayCluster`` as ``make`` of
:class:`PoolContract`.
"""

from __future__ import annotations

import pytest

from lightning_compress.errors import CompressError
from lightning_compress.plan import Plan
from lightning_compress.search import ray_cluster
from lightning_compress.search.ray_cluster import RayCluster
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
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


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


def test_ray_that_is_not_installed_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster, "ray", None)
    with pytest.raises(CompressError, match=r"ray is not installed; pip install 'lightning-compress\[ray\]'"):
        RayCluster(Watched(tmp_path))


def test_a_cluster_that_is_not_there_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_cluster.ray, "init", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no GCS")))
    sentence = r"no Ray cluster at address 'auto' \(no GCS\)"
    with RayCluster(Watched(tmp_path), address="auto") as executor, pytest.raises(CompressError, match=sentence):
        list(executor.run({0: None}))
