"""Coders: codes come back bit for bit, and entropy coding takes what the entropy says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn

import lightning_compress as lc
import lightning_compress.conf
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.errors import PackedFileError
from lightning_compress.export import container
from lightning_compress.export.coders import RangeCoded
from lightning_compress.quantization.quantizers.codebook import Codebook
from lightning_compress.surgery.structure import structure_of

FILES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "coder").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@given(bits=st.integers(1, 8), counts=st.lists(st.integers(0, 400), min_size=1, max_size=4), data=st.data())
@settings(deadline=None, max_examples=80)
def test_streams_one_after_the_other_come_back(file, bits, counts, data):
    coder = instantiate(OmegaConf.load(file))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    skew = data.draw(st.sampled_from([0.0, 1.0, 20.0]))
    parts = [(rng.random(n) ** (1 + skew) * 2**bits).astype(np.uint8) for n in counts]
    stream, at = np.concatenate([coder.write(part, bits) for part in parts]), 0
    for part in parts:
        found, size = coder.read(stream[at:], bits, len(part))
        np.testing.assert_array_equal(found, part)
        at += size
    assert at == len(stream)


def test_range_coding_takes_the_entropy():
    rng = np.random.default_rng(0)
    codes = np.clip(np.round(rng.laplace(size=200_000)) + 8, 0, 15).astype(np.uint8)
    shares = np.bincount(codes, minlength=16) / len(codes)
    entropy = -(shares[shares > 0] * np.log2(shares[shares > 0])).sum() * len(codes) / 8
    assert entropy <= len(RangeCoded().write(codes, 4)) <= 1.001 * entropy + 60
    uniform = rng.integers(0, 16, 1000).astype(np.uint8)
    assert len(RangeCoded().write(uniform, 4)) == 1 + 500


@pytest.mark.parametrize("quantizer", [None, Codebook])
@pytest.mark.parametrize("pruned", [False, True])
def test_a_file_with_entropy_coded_weights_loads_and_is_smaller(quantizer, pruned, tmp_path):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 10)).eval(), torch.randn(3, 200)
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.copy_(torch.from_numpy(np.random.default_rng(0).laplace(size=layer.weight.shape)) / 20)
    if pruned:
        WeightPruning({name: {"density": 0.3} for name in "02"}).apply(net, x)
    settings = {} if quantizer is None else {"weight_quantizer": quantizer}
    QuantizationAwareTraining({name: {"weight_bits": 6} for name in "02"}, **settings).apply(net, x)
    plain, coded = lc.save(net, tmp_path / "a"), lc.save(net, tmp_path / "b", coder=RangeCoded())
    assert coded.stat().st_size < 0.98 * plain.stat().st_size
    assert coded.stat().st_size <= PackedBytes()(structure_of(net).profile)
    fresh = nn.Sequential(nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 10))
    torch.testing.assert_close(lc.load(coded, fresh)(x), net(x), rtol=1e-4, atol=1e-5)


def test_a_coder_of_a_newer_version_is_named(tmp_path):
    net = nn.Sequential(nn.Linear(4, 2))
    lc.save(net, tmp_path / "a", example_input=torch.zeros(1, 4), coder=RangeCoded())
    tensors, contents = container.read(tmp_path / "a")
    container.write(tmp_path / "a", tensors, {**contents, "coder": "arithmetic"})
    with pytest.raises(PackedFileError, match=r"coder 'arithmetic' is not known here; import the package.*, or update"):
        lc.load(tmp_path / "a", nn.Sequential(nn.Linear(4, 2)))
