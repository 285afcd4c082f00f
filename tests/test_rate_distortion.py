"""Quantization by rate: fewer bytes at the same error than rounding, files as they are, and what it refuses."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import lightning_compress as lc
from lightning_compress.core.errors import CompressError
from lightning_compress.export.rate_distortion import quantize_by_rate
from lightning_compress.quantization.coders.range_coded import RangeCoded
from lightning_compress.quantization.rate_distortion import rounded
from lightning_compress.surgery.structure import structure_of
from lightning_compress.testing.toys import ToyNet

CODER = RangeCoded()


@pytest.fixture(scope="module")
def layer():
    """Return a weight and the second moments of inputs that depend on each other."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2000, 72)) @ (np.eye(72) + 0.3 * rng.normal(size=(72, 72)))
    second = inputs.T @ inputs / len(inputs)
    weight = rng.laplace(size=(48, 72))
    return weight, second / np.einsum("of,fg,og->", weight, second, weight)


def measured(weight, second, step, codes):
    """Return the relative error of the output, and bytes."""
    off = weight - step * codes
    low = int(codes.min())
    bits = max(int(codes.max() - low).bit_length(), 1)
    stream = CODER.write((codes - low).astype(np.uint8).ravel(), bits, (48, 8, 3, 3))
    return np.einsum("of,fg,og->", off, second, off), len(stream)


@pytest.mark.parametrize("price", [1e-7, 1e-6, 1e-5])
def test_it_takes_fewer_bytes_than_rounding_to_a_grid_of_the_same_error(price, layer):
    weight, second = layer
    error, size = measured(weight, second, *rounded(weight, second, price, (48, 8, 3, 3), CODER))
    grids = [measured(weight, second, s, np.rint(weight / s).astype(int)) for s in np.geomspace(0.05, 4, 60)]
    assert size < 0.95 * min(bytes_ for off, bytes_ in grids if off <= error)


def test_a_higher_price_gives_fewer_bytes_and_more_error(layer):
    weight, second = layer
    prices = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4)
    found = [measured(weight, second, *rounded(weight, second, p, (48, 8, 3, 3), CODER)) for p in prices]
    assert [error for error, _ in found] == sorted(error for error, _ in found)
    assert [size for _, size in found] == sorted((size for _, size in found), reverse=True)


def test_lengths_of_codes_add_up_to_the_stream():
    rng = np.random.default_rng(0)
    codes = np.clip(np.round(rng.laplace(size=64 * 16 * 9)) + 4, 0, 7).astype(np.uint8)
    tables, which = CODER.code_lengths(codes, 3, (64, 16, 3, 3))
    stream = CODER.write(codes, 3, (64, 16, 3, 3))
    assert tables[which, codes].sum() / 8 == pytest.approx(len(stream), abs=16)


@pytest.mark.parametrize("price", [1e-6, 1e-4, 10.0])
def test_the_file_holds_the_quantized_network(price, tmp_path):
    torch.manual_seed(0)
    net, x = ToyNet(), torch.randn(64, 1, 8, 8)
    net.train()
    for _ in range(3):
        net(x)  # statistics of the batch norms
    net.eval()
    dense = copy.deepcopy(net)
    quantize_by_rate(net, [x], price)
    file = lc.save(net, tmp_path / "net", coder=CODER)
    assert file.stat().st_size < lc.save(dense, tmp_path / "dense", example_input=x).stat().st_size
    torch.testing.assert_close(lc.load(file, ToyNet())(x), net(x), rtol=1e-4, atol=1e-5)
    profile = structure_of(net).profile
    assert all(layer.weight_bits <= 8 for layer in profile.weighted)
    assert lc.inspect(file).plan.knob("weight_bits") == {p.name: p.weight_bits for p in profile.weighted}


def test_groups_and_norms_of_weight_zero_are_quantized_too(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    nn.init.zeros_(net[1].weight[:4])
    net, x = net.eval(), torch.randn(32, 8, 8, 8)
    expected = net(x)
    quantize_by_rate(net, [x], 1e-8)
    assert (net(x) - expected).square().sum() < 0.01 * expected.square().sum()
    file = lc.save(net, tmp_path / "net", coder=CODER)
    fresh = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    torch.testing.assert_close(lc.load(file, fresh)(x), net(x), rtol=1e-4, atol=1e-5)


def test_what_it_refuses():
    net, x = nn.Sequential(nn.Linear(8, 4)), torch.randn(16, 8)
    for price in (0, float("inf"), float("nan")):
        with pytest.raises(CompressError, match=f"price must be above 0 and finite, got {price}; 1e-6 is a usual one"):
            quantize_by_rate(net, [x], price)
    with pytest.raises(CompressError, match="there is no batch to gather inputs of Sequential from"):
        quantize_by_rate(net, [], 1e-6)
    quantize_by_rate(net, [x], 1e-6)
    with pytest.raises(CompressError, match="layer '0' is masked or quantized already; start from the plain network"):
        quantize_by_rate(net, [x], 1e-6)
