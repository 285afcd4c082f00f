"""Scales where training begins: near the best of all, whatever the width, the distribution, the order and the unit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_compress.quantization.quantizers.lsq import LSQ
from lightning_compress.quantization.quantizers.lsq_activation import LSQActivation
from lightning_compress.quantization.quantizers.min_max import MinMax
from lightning_compress.quantization.quantizers.min_max_activation import MinMaxActivation
from lightning_compress.quantization.quantizers.pact import PACT
from lightning_compress.quantization.scale_search import best_scale
from lightning_compress.quantization.value_histogram import ValueHistogram

LAWS = {
    "normal": lambda n: torch.randn(n),
    "laplace": lambda n: torch.distributions.Laplace(0.0, 1.0).sample((n,)),
    "uniform": lambda n: 2 * torch.rand(n) - 1,
    "student2": lambda n: torch.distributions.StudentT(2.0).sample((n,)),
    "cauchy": lambda n: torch.distributions.Cauchy(0.0, 1.0).sample((n,)),
    "lognormal": lambda n: torch.randn(n).mul(2).exp(),
    "relu": lambda n: torch.randn(n).relu(),
    "negative": lambda n: -torch.randn(n).abs(),
    "sparse": lambda n: torch.randn(n) * (torch.rand(n) < 0.05),
    "shifted": lambda n: torch.randn(n) + 3,
}


def error(x: Tensor, scale: Tensor, low: int, high: int, shift: float) -> Tensor:
    """Return the norm of the error for each of many scales."""
    levels = (x.double() / scale[:, None] - shift).clamp(low, high).round() + shift
    return (levels * scale[:, None] - x).square().sum(1).sqrt()


def brute_force(x: Tensor, low: int, high: int, shift: float) -> float:
    """Return the least error of any of 1,500 scales."""
    largest = float(x.abs().max()) / max(high, 1)
    scales = largest * torch.logspace(-3, 0.4, 1500, dtype=torch.float64)
    return float(min(error(x, part, low, high, shift).min() for part in scales.split(250)))


@pytest.mark.parametrize("law", LAWS)
@given(st.integers(1, 8), st.integers(2, 800), st.integers(0, 2**31), st.sampled_from([1e-30, 1e-3, 1.0, 1e30]))
@settings(max_examples=6, deadline=None)
def test_the_error_at_the_start_is_near_the_optimum(law, bits, count, seed, unit):
    torch.manual_seed(seed)
    x = LAWS[law](count)
    if x.any():
        quantizer = LSQ(bits)
        quantizer.initialize(x * unit)
        low, high, shift = int(quantizer.low), int(quantizer.high), float(quantizer.shift)
        scale = (quantizer.scale_for(x).detach() / unit).view(1)
        # fp32 weights have no less error than their own rounding.
        assert float(error(x, scale, low, high, shift)) <= 1.5 * brute_force(x, low, high, shift) + 1e-6 * x.norm()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("make", [LSQActivation, PACT])
@given(st.integers(2, 8), st.integers(50, 800), st.integers(0, 2**31))
@settings(max_examples=4, deadline=None)
def test_the_error_of_activations_is_near_the_optimum(make, law, bits, count, seed):
    torch.manual_seed(seed)
    x = LAWS[law](count)
    if x.any():
        quantizer = make(bits).eval()
        quantizer(x)
        low, high = int(quantizer.low), int(quantizer.high)
        found = float(error(x, quantizer.scale_for(x).detach().view(1), low, high, 0.0))
        assert found <= 1.5 * brute_force(x, low, high, 0.0) + 1e-3 * 2**-bits * x.norm()


@pytest.mark.parametrize("bits", range(1, 9))
def test_each_channel_has_the_scale_that_it_has_alone(bits):
    torch.manual_seed(0)
    x = torch.stack([law(300) for law in LAWS.values()]) * torch.logspace(-20, 20, len(LAWS))[:, None]
    low, high, shift = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0.5 * (bits == 1)
    alone = torch.cat([best_scale(row[None], low, high, shift) for row in x])
    torch.testing.assert_close(best_scale(x, low, high, shift), alone, rtol=0.05, atol=0)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("law", ["normal", "laplace", "student2"])
def test_no_width_is_worse_than_min_max(bits, law):
    torch.manual_seed(bits)
    weight = LAWS[law](20 * 144).view(20, 144)
    learned = LSQ(bits, (20, 1))
    learned.initialize(weight)
    fixed = MinMax(bits, (20, 1))(weight)
    assert ((learned(weight) - weight).norm(dim=1) <= (fixed - weight).norm(dim=1) * (1 + 1e-5)).all()


@pytest.mark.parametrize("law", LAWS)
def test_long_rows_have_the_scale_of_all_their_values(law):
    torch.manual_seed(0)
    x = LAWS[law](20_000)
    found = float(error(x, best_scale(x[None], -8, 7), -8, 7, 0.0))
    assert found <= 1.1 * brute_force(x, -8, 7, 0.0)


@pytest.mark.parametrize("unit", [1e-30, 1e-12, 1e-7, 3e-3, 7.0, 1e12, 1e30])
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_quantizing_commutes_with_the_unit(bits, unit):
    torch.manual_seed(0)
    w = torch.randn(8, 64)
    makers = [lambda: LSQ(bits, (8, 1)), lambda: MinMax(bits, (8, 1)), LSQActivation, MinMaxActivation, PACT]
    for make in makers:
        one, other = (make(bits).eval() if isinstance(make, type) else make().eval() for _ in range(2))
        for quantizer, x in ((one, w), (other, w * unit)):
            if quantizer.shape:
                quantizer.initialize(x)
        # Rounding in fp32 may move single values across the border between two levels.
        moved = (other(w * unit) / unit - one(w)).abs() > 1e-3 * one(w).abs().max()
        assert moved.float().mean() <= 0.01, type(one).__name__


@pytest.mark.parametrize("shape", [(4, 3), (2, 0), (0, 3)])
def test_rows_that_say_nothing_have_no_scale(shape):
    assert torch.equal(best_scale(torch.zeros(shape), -8, 7), torch.zeros(shape[0]))


def test_a_histogram_does_not_depend_on_order_layout_and_cuts():
    torch.manual_seed(0)
    x = torch.randn(6, 5, 7, 9)
    whole = ValueHistogram(x).points()
    for other in (
        ValueHistogram(x.contiguous(memory_format=torch.channels_last)),
        ValueHistogram(x.flatten()[torch.randperm(x.numel())]),
        ValueHistogram(x[:2]).merge(ValueHistogram(x[2:])),
        ValueHistogram(x).merge(ValueHistogram(x)),
    ):
        assert all(torch.equal(a, b) for a, b in zip(whole, other.points(), strict=True))


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e30])
def test_a_histogram_knows_values_to_three_digits(unit):
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0)) * unit
    values, shares = ValueHistogram(torch.cat([x, torch.tensor([float("nan"), float("inf")])])).points()
    assert float(shares.sum()) == pytest.approx(1, rel=1e-5)
    gaps = (x[:, None] - values).abs().amin(1)
    assert (gaps <= x.abs() / 4000).all()
    assert values.max() <= x.max()
    assert values.min() >= x.min()
