"""The exporters' contract, collected from conf/, on a dense and on compressed networks."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

import lightning_compress as lc
import lightning_compress.conf
from lightning_compress.core.errors import CompressError
from lightning_compress.export import container
from lightning_compress.export.exporter import ExportReport, Parity
from lightning_compress.export.onnx.exporter import Onnx
from lightning_compress.export.packed import Packed
from lightning_compress.testing.exporters import ExporterContract
from lightning_compress.testing.toys import SIZE, ToyNet

FILES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "exporter").glob("*.yaml"))
COMPRESSED = {
    "dense": None,
    "quantized": lambda: lc.QuantizationAwareTraining(
        {name: {"weight_bits": 4, "act_bits": 8} for name in ("stem.0", "conv1", "conv2", "fc")}
    ),
    "fewer channels": lambda: lc.ChannelPruning({"conv1": {"channels": 0.5}}),
    "sparse": lambda: lc.WeightPruning({"conv1": {"density": 0.25}}),
}


class TestContract(ExporterContract):
    @pytest.fixture(params=FILES, ids=lambda file: file.stem)
    def exporter(self, request):
        made = instantiate(OmegaConf.load(request.param))
        for package in made.packages:
            pytest.importorskip(package, reason="the runtime is not installed")
        return made

    @pytest.fixture(params=COMPRESSED)
    def network(self, request):
        torch.manual_seed(0)
        net, example = ToyNet().eval(), torch.randn(4, 1, SIZE, SIZE)
        if make := COMPRESSED[request.param]:
            make().apply(net, example)
            net(example)
        return net, example


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_package_that_is_not_installed_is_named(file, tmp_path, monkeypatch):
    made, net, x = instantiate(OmegaConf.load(file)), ToyNet().eval(), torch.randn(4, 1, SIZE, SIZE)
    if not made.packages:
        pytest.skip("it needs none")
    without(made.packages, monkeypatch)
    with pytest.raises(CompressError, match=r'pip install "lightning-compress\[\w+\]"'):
        made.export(net, tmp_path / made.file_name, x)
    assert not list(tmp_path.iterdir())


def without(packages, monkeypatch) -> None:
    """Act as if packages were not installed."""
    found = importlib.util.find_spec
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in packages:
        monkeypatch.setitem(sys.modules, name, None)
    hidden = lambda name, *rest: None if name.partition(".")[0] in packages else found(name, *rest)  # noqa: E731
    for module in [
        m for name, m in sys.modules.items() if name.startswith("lightning_compress.") and hasattr(m, "find_spec")
    ]:
        monkeypatch.setattr(module, "find_spec", hidden)


def test_without_onnxruntime_the_file_is_written_and_that_is_said(tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason="the package is not installed")
    without(("onnxruntime",), monkeypatch)
    report = Onnx().export(ToyNet().eval(), tmp_path / "net.onnx", torch.randn(4, 1, SIZE, SIZE))
    assert report.deployed is None
    assert any("not run here, for onnxruntime is not installed" in note for note in report.notes)


def test_a_report_becomes_plain_types(tmp_path):
    report = ExportReport(tmp_path / "net.onnx", 12, Parity(4, 1.0, 0.0, 0.0), ("two layers stay float",))
    assert report.to_dict() == {
        "path": "net.onnx",
        "bytes": 12,
        "parity": {"samples": 4, "agreement": 1.0, "mean_error": 0.0, "max_error": 0.0},
        "notes": ["two layers stay float"],
        "deployed": None,
    }


def test_the_packed_file_is_what_save_writes(tmp_path):
    net, example = ToyNet(), torch.zeros(1, 1, SIZE, SIZE)
    report = Packed().export(net, tmp_path / "exported", example)
    saved = lc.save(net, tmp_path / "saved", example_input=example)
    assert container.read(report.path)[1] == container.read(saved)[1]
