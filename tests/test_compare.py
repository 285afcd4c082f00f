"""Runs side by side: every figure of every run, and a sentence where a run is missing."""

from __future__ import annotations

import json
import sys

import pytest

from lightning_compress import compare

FIGURES = {"bytes": 1000, "weight_bits": 8000, "macs": 500, "parameters": 250, "latency_ms": 0.5}


def write(folder, accuracy):
    folder.mkdir()
    dense, small = {**FIGURES, "accuracy": 0.99}, {**FIGURES, "bytes": 100, "accuracy": accuracy}
    (folder / "result.json").write_text(json.dumps({"dense": dense, "compressed": small, "seconds": 12.3}))


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["lightning-compress", "report", *map(str, arguments)])
    compare.main()


def test_two_runs_and_the_dense_network(tmp_path, monkeypatch, capsys):
    write(tmp_path / "a", 0.98)
    write(tmp_path / "b<i>", 0.97)
    run(monkeypatch, tmp_path / "a", tmp_path / "b<i>", "--html", tmp_path / "page.html")
    printed = capsys.readouterr().out
    for text in ("dense", "99.00%", "98.00%", "97.00%", "1,000", "100", "12"):
        assert text in printed
    page = (tmp_path / "page.html").read_text()
    assert '<td data-name="a">98.00%</td>' in page
    assert "b&lt;i&gt;" in page
    assert "<i>" not in page


def test_a_folder_without_a_run_and_a_damaged_one_are_named(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="holds no finished run"):
        run(monkeypatch, tmp_path)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(SystemExit, match="is damaged"):
        run(monkeypatch, tmp_path)
