"""The executor on Ray, with a cluster that is started here."""

from __future__ import annotations

import pytest

from lightning_compress.errors import CompressError
from lightning_compress.search import ray_cluster
from lightning_compress.search.ray_cluster import RayCluster
from lightning_compress.testing.executors import PoolContract, Watched

ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


class TestContract(PoolContract):
    @pytest.fixture
    def make(self, cluster):
        return RayCluster


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
