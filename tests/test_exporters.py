"""The exporters' contract, collected from conf/, on a dense and on compressed networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

import lightning_compress as lc
import lightning_compress.conf
from lightning_compress.export import container
from lightning_compress.export.exporter import ExportReport, Parity
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
