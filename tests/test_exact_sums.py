"""Sums of int8 kernels of ONNX Runtime: exact everywhere, by the option only where the processor needs it."""

from __future__ import annotations

import pytest
import torch

from lightning_compress.export.integer.emulate import emulate
from lightning_compress.export.integer.rounding.floating import FloatRounding
from lightning_compress.export.onnx import exact_sums, int8_latency, session
from lightning_compress.export.onnx.session import Session
from lightning_compress.export.onnx.write import onnx_bytes

onnxruntime = pytest.importorskip("onnxruntime", reason="the runtime is not installed")
SHAPE = (2, exact_sums.CHANNELS, exact_sums.SIZE, exact_sums.SIZE)


def test_the_probe_saturates_where_two_products_are_added_in_sixteen_bits():
    graph = exact_sums.probe()
    for conv, expected in zip(graph.operations, (255, exact_sums.EXPECTED), strict=True):
        products = 255 * conv.weight.astype(int).reshape(exact_sums.CHANNELS, -1, 2)
        saturated = products.sum(2).clip(-(2**15), 2**15 - 1).sum(1) * conv.scales
        assert (saturated < 0.9 * expected).all()
    exact = emulate(graph, torch.full(SHAPE, 255), FloatRounding())
    assert (exact == exact_sums.EXPECTED).all()


@pytest.mark.parametrize("saturates", [False, True])
def test_exact_sums_are_asked_for_only_where_they_are_needed(saturates, monkeypatch):
    asked = []
    monkeypatch.setattr(session, "saturates", lambda: saturates)
    options = onnxruntime.SessionOptions
    monkeypatch.setattr(options, "add_session_config_entry", lambda self, *entry: asked.append(entry))
    Session(onnx_bytes(exact_sums.probe()))
    assert asked == [exact_sums.EXACT_SUMS] * saturates


def test_sums_of_a_session_are_exact_on_this_processor():
    found = Session(onnx_bytes(exact_sums.probe())).run(torch.full(SHAPE, 255.0))
    assert (found.round() == exact_sums.EXPECTED).all()


def test_latencies_with_and_without_exact_sums_are_kept_apart(monkeypatch):
    told = set()
    for saturates in (False, True):
        monkeypatch.setattr(int8_latency, "saturates", lambda saturates=saturates: saturates)
        told.add(int8_latency.Int8Latency().runtime())
    assert len(told) == 2
