"""Contract suite of exporters. Subclass it, and give the fixtures ``exporter`` and ``network``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_compress.core.errors import CompressError
from lightning_compress.testing.toys import SIZE, ToyNet


class ExporterContract:
    """A whole file or none, of the same size every time, and the network left as it was."""

    @pytest.fixture
    def exporter(self) -> Any:
        """Return the exporter under test, of :class:`lightning_compress.export.exporter.Exporter`."""
        raise NotImplementedError

    @pytest.fixture
    def network(self) -> tuple[nn.Module, Any]:
        """Return a finished network and an input batch of it; a dense one unless a sub-class gives compressed ones."""
        torch.manual_seed(0)
        return ToyNet().eval(), torch.randn(4, 1, SIZE, SIZE)

    def test_the_report_tells_of_the_file(self, exporter, network, tmp_path) -> None:
        net, example = network
        report = exporter.export(net, tmp_path / exporter.file_name, example)
        assert report.path == tmp_path / exporter.file_name
        assert report.bytes == report.path.stat().st_size > 0
        assert all(note.strip() for note in report.notes)
        if report.parity is not None:
            assert report.parity.samples > 0
            assert report.parity.agreement == 1.0
            assert 0 <= report.parity.mean_error <= report.parity.max_error < 0.05

    def test_the_network_is_left_as_it_was(self, exporter, network, tmp_path) -> None:
        net, example = network
        net.train()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        exporter.export(net, tmp_path / exporter.file_name, example)
        assert all(module.training for module in net.modules())
        after = net.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], value) for name, value in before.items())

    def test_the_same_size_again(self, exporter, network, tmp_path) -> None:
        first, second = (exporter.export(*_at(network, tmp_path / name)) for name in ("first", "second"))
        assert first.bytes == second.bytes

    def test_a_file_that_is_there_is_replaced(self, exporter, network, tmp_path) -> None:
        path = tmp_path / exporter.file_name
        path.write_bytes(b"not a network" * 10_000)
        assert exporter.export(*_at(network, path)).bytes == path.stat().st_size
        assert [file.name for file in tmp_path.iterdir()] == [exporter.file_name]

    def test_a_folder_that_is_not_there_is_an_error(self, exporter, network, tmp_path) -> None:
        with pytest.raises(CompressError, match="missing"):
            exporter.export(*_at(network, tmp_path / "missing" / exporter.file_name))


def _at(network: tuple[nn.Module, Any], path: Path) -> tuple[nn.Module, Path, Any]:
    net, example = network
    return net, path, example
