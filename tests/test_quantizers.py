"""The quantisers' contract, collected from conf/, and LSQ's gradient by its own formula."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

import lightning_compress.conf
from lightning_compress.quantizers.fake_quantize import FakeQuantize, least_squares_scale
from lightning_compress.quantizers.fixed_grid import FixedGrid
from lightning_compress.quantizers.lsq import LSQ
from lightning_compress.quantizers.lsq_activation import LSQActivation
from lightning_compress.quantizers.min_max import MinMax
from lightning_compress.testing.quantizers import QuantizerContract

FILES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "quantizer").glob("*.yaml"))


class TestContract(QuantizerContract):
    @pytest.fixture(params=FILES, ids=lambda file: file.stem)
    def make(self, request):
        return instantiate(OmegaConf.load(request.param))


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_lsq_gradient_of_the_scale_is_equation_3(bits):
    torch.manual_seed(0)
    w, upstream = torch.randn(4, 30, dtype=torch.float64), torch.randn(4, 30, dtype=torch.float64)
    quantizer = LSQ(bits, (4, 1))
    quantizer.initialise(w)
    (quantizer(w.float()) * upstream.float()).sum().backward()
    s, z = quantizer.scale.detach().double(), 0.5 if bits == 1 else 0.0
    low, high = -(2 ** (bits - 1)) + z, 2 ** (bits - 1) - 1 + z
    v = w / s
    levels = torch.where(v <= low, low, torch.where(v >= high, high, (v - z).round() + z))
    derivative = torch.where((v > low) & (v < high), levels - v, levels)
    expected = (upstream * derivative).sum(1, keepdim=True) / (30 * max(2 ** (bits - 1) - 1, 1)) ** 0.5
    torch.testing.assert_close(quantizer.scale.grad.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("signed", [True, False])
def test_lsq_activation_gradient_of_the_scale_is_equation_3(bits, signed):
    torch.manual_seed(0)
    x, upstream = torch.randn(6, 50, dtype=torch.float64), torch.randn(6, 50, dtype=torch.float64)
    x = (x if signed else x.abs()).float().double()
    quantizer = LSQActivation(bits)
    quantizer(x.float())
    (quantizer(x.float()) * upstream.float()).sum().backward()
    s = quantizer.scale.detach().double()
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    v = x / s
    levels = torch.where(v <= low, low, torch.where(v >= high, high, v.round()))
    derivative = torch.where((v > low) & (v < high), levels - v, levels)
    expected = (upstream * derivative).sum() / (50 * high) ** 0.5  # 50 features, whatever the batch
    torch.testing.assert_close(quantizer.scale.grad.double(), expected, rtol=1e-4, atol=1e-5)


def test_one_scale_in_all_gives_what_many_equal_ones_give():
    torch.manual_seed(0)
    low, high, upstream = torch.tensor(-4.0), torch.tensor(3.0), torch.randn(5, 40)
    found = []
    for shape in ((), (5, 1)):
        x = torch.linspace(-2, 2, 200).view(5, 40).requires_grad_()
        scale = torch.full(shape, 0.3, requires_grad=True)
        (FakeQuantize.apply(x, scale, low, high, None, 0.5) * upstream).sum().backward()
        found.append((FakeQuantize.apply(x, scale, low, high, None, 0.5).detach(), x.grad, scale.grad.sum()))
    for one, many in zip(*found, strict=True):
        torch.testing.assert_close(one, many)


def test_a_fixed_grid_takes_scales_of_any_sign_and_zero():
    grid = FixedGrid(3, (3, 1), -4.0)
    grid.scale.copy_(torch.tensor([[0.5], [-0.5], [0.0]]))
    codes = torch.arange(8, dtype=torch.uint8).expand(3, 8)
    weight = grid.decode(codes, grid.scale)
    torch.testing.assert_close(weight[0], torch.arange(-4, 4) * 0.5)
    torch.testing.assert_close(weight[1], -weight[0])
    torch.testing.assert_close(grid(weight), weight)
    assert torch.equal(grid.codes(weight)[0][:2], codes[:2])


def test_min_max_reference_values():
    w = torch.tensor([[-1.0, 0.5, 0.2], [0.0, 6.0, -3.0]])
    quantizer = MinMax(3, (2, 1))
    expected = torch.tensor([[-1.0, 2 / 3, 1 / 3], [0.0, 6.0, -4.0]])  # steps of 1/3 and 2; -1.5 rounds to even
    torch.testing.assert_close(quantizer(w), expected)
    one_bit = MinMax(1, (2, 1))(w)
    torch.testing.assert_close(one_bit.abs(), w.abs().mean(1, keepdim=True).expand(2, 3))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_least_squares_scale_is_no_worse_than_any_on_a_fine_grid(bits):
    torch.manual_seed(0)
    x = torch.distributions.Laplace(0.0, 1.0).sample((20_000,))
    quantizer = LSQ(bits)
    quantizer.initialise(x)

    def error(scale):
        levels = (x / scale - quantizer.shift).clamp(quantizer.low, quantizer.high).round() + quantizer.shift
        return float((levels * scale - x).square().mean())

    found = error(quantizer.scale.detach())
    assert found <= 1.05 * min(error(torch.tensor(s)) for s in torch.linspace(0.02, 4, 400).tolist())


def test_least_squares_steps_never_raise_the_error():
    torch.manual_seed(0)
    x, low, high, z = torch.randn(500), torch.tensor(-4.0), torch.tensor(3.0), torch.tensor(0.0)
    errors = []
    for steps in range(8):
        scale = least_squares_scale(x, torch.tensor(0.2), low, high, z, steps)
        errors.append(float(((x / scale).clamp(low, high).round() * scale - x).square().sum()))
    assert all(b <= a + 1e-4 for a, b in pairwise(errors))
