"""Coders: codes come back bit for bit, and entropy coding takes what the entropy says."""

from __future__ import annotations

import hashlib
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
from lightning_compress.core.errors import CompressError, PackedFileError
from lightning_compress.export import container
from lightning_compress.quantization.coders.fixed_width import FixedWidth
from lightning_compress.quantization.coders.range_coded import RangeCoded
from lightning_compress.quantization.quantizers.codebook import Codebook
from lightning_compress.surgery import measure
from lightning_compress.surgery.structure import structure_of
from lightning_compress.vision.models.resnet_cifar import resnet8

FILES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "coder").glob("*.yaml"))


SHAPES = [(5, 7), (1, 300), (40, 1), (6, 3, 3, 3), (9, 4, 1, 1), (4, 2, 5, 5), (3, 5, 4), (2, 0), (0, 3, 3, 3)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@given(bits=st.integers(1, 8), shapes=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3), data=st.data())
@settings(deadline=None, max_examples=80)
def test_streams_one_after_the_other_come_back(file, bits, shapes, data):
    coder = instantiate(OmegaConf.load(file))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    skew = data.draw(st.sampled_from([0.0, 1.0, 20.0]))
    masks = [
        rng.random(s) < density if (density := data.draw(st.sampled_from([1.0, 0.5, 0.0]))) < 1 else None
        for s in shapes
    ]
    numbers = [int(np.prod(s)) if m is None else int(m.sum()) for s, m in zip(shapes, masks, strict=True)]
    parts = [(rng.random(n) ** (1 + skew) * 2**bits).astype(np.uint8) for n in numbers]
    layers = list(zip(parts, shapes, masks, strict=True))
    stream, at = np.concatenate([coder.write(part, bits, s, m) for part, s, m in layers]), 0
    for part, shape, mask in layers:
        found, size = coder.read(stream[at:], bits, shape, mask)
        np.testing.assert_array_equal(found, part)
        at += size
    assert at == len(stream)


def entropy_bytes(codes: np.ndarray) -> float:
    shares = np.bincount(codes.ravel()) / codes.size
    return -(shares[shares > 0] * np.log2(shares[shares > 0])).sum() * codes.size / 8


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_without_context_take_little_more_than_their_entropy(bits):
    rng = np.random.default_rng(0)
    codes = np.clip(np.round(rng.laplace(size=(256, 64, 3, 3)) * 2**bits / 16) + 2 ** (bits - 1), 0, 2**bits - 1)
    codes = codes.astype(np.uint8)
    assert len(RangeCoded().write(codes.ravel(), bits, codes.shape)) <= 1.005 * entropy_bytes(codes) + 60
    uniform = rng.integers(0, 16, (10, 100)).astype(np.uint8)
    assert len(RangeCoded().write(uniform.ravel(), 4, uniform.shape)) == 1 + 500


@pytest.mark.parametrize("axis", [0, 1, (0, 1)], ids=["outputs", "inputs", "kernels"])
def test_small_and_large_weights_side_by_side_take_less_than_their_entropy(axis):
    rng = np.random.default_rng(0)
    size = np.ones((64, 64, 3, 3))
    shape = [64 if a in np.atleast_1d(axis) else 1 for a in range(2)]
    size *= np.exp(rng.normal(size=(*shape, 1, 1)))
    codes = np.clip(np.round(rng.normal(size=size.shape) * size) + 8, 0, 15).astype(np.uint8)
    assert len(RangeCoded().write(codes.ravel(), 4, codes.shape)) < 0.95 * entropy_bytes(codes)


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_damaged_streams_are_refused_or_give_codes(data):
    """And take no more than the layer does: lengths in a stream are not believed."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    shape, bits = (12, 4, 3, 3), data.draw(st.integers(1, 8))
    stream = RangeCoded().write((rng.random(432) ** 4 * 2**bits).astype(np.uint8), bits, shape)
    kind = data.draw(st.sampled_from(["byte", "cut", "noise"]))
    if kind == "byte":
        stream[rng.integers(len(stream))] ^= 1 << rng.integers(8)
    elif kind == "cut":
        stream = stream[: rng.integers(1, len(stream))]
    else:
        stream = np.concatenate([stream[:1], rng.integers(0, 256, len(stream) - 1).astype(np.uint8)])
    try:
        codes, size = RangeCoded().read(stream, bits, shape)
    except ValueError:
        return
    assert codes.shape == (432,)
    assert codes.max() < 2**bits
    assert size <= len(stream)


def test_a_stream_is_the_same_wherever_it_is_written():
    """Compare whole numbers alone: a reader on another machine finds the same tables."""
    codes = (np.arange(16 * 8 * 9) ** 2 % 97 * np.arange(16 * 8 * 9) % 61 % 16).astype(np.uint8) // 3
    stream = RangeCoded().write(codes, 4, (16, 8, 3, 3))
    assert hashlib.sha256(stream.tobytes()).hexdigest()[:16] == "c9f4fb02763ac379"


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


@pytest.mark.parametrize("coder", [FixedWidth, RangeCoded])
def test_numbers_are_rounded_once_and_take_half_the_bytes(coder, tmp_path):
    torch.manual_seed(0)
    net, x = resnet8(in_channels=1).eval(), torch.randn(2, 1, 8, 8)
    layers = measure.measure(net, x).weighted
    QuantizationAwareTraining({layer.name: {"weight_bits": 4} for layer in layers}).apply(net, x)
    whole = lc.save(net, tmp_path / "whole", coder=coder())
    half = lc.save(net, tmp_path / "half", x, coder=coder(numbers="bfloat16"))
    numbers = sum(2 * layer.out_channels for layer in layers)  # a scale and a bias for each channel
    assert whole.stat().st_size - half.stat().st_size == pytest.approx(2 * numbers, abs=8)
    exact, rounded = (PackedBytes(c)(structure_of(net).profile) for c in (coder(), coder(numbers="bfloat16")))
    assert exact - rounded == 2 * numbers
    assert half.stat().st_size <= rounded
    loaded = lc.load(half, resnet8(in_channels=1)).eval()
    assert 0 < (loaded(x) - net(x)).norm() < 0.01 * net(x).norm()
    assert loaded.fc.bias.dtype == torch.float32
    again = lc.save(loaded, tmp_path / "again", x, coder=coder(numbers="bfloat16"))
    assert container.read(again)[0]["floats"].equal(container.read(half)[0]["floats"])


def test_a_network_without_codes_is_stored_as_it_is(tmp_path):
    net, x = resnet8(in_channels=1).eval(), torch.randn(2, 1, 8, 8)
    file = lc.save(net, tmp_path / "dense", x, coder=FixedWidth(numbers="bfloat16"))
    torch.testing.assert_close(lc.load(file, resnet8(in_channels=1)).eval()(x), net(x), rtol=1e-5, atol=1e-5)
    profile = measure.measure(net, x)
    assert PackedBytes(FixedWidth(numbers="bfloat16"))(profile) == PackedBytes()(profile)


def test_another_type_of_numbers_is_refused():
    with pytest.raises(CompressError, match="FixedWidth: numbers must be one of float32, bfloat16, got 'float16'"):
        FixedWidth(numbers="float16")


def test_a_coder_of_a_newer_version_is_named(tmp_path):
    net = nn.Sequential(nn.Linear(4, 2))
    lc.save(net, tmp_path / "a", example_input=torch.zeros(1, 4), coder=RangeCoded())
    tensors, contents = container.read(tmp_path / "a")
    container.write(tmp_path / "a", tensors, {**contents, "coder": "arithmetic"})
    with pytest.raises(PackedFileError, match=r"coder 'arithmetic' is not known here; import the package.*, or update"):
        lc.load(tmp_path / "a", nn.Sequential(nn.Linear(4, 2)))
