"""The quantizers' contract, collected from conf/, and LSQ's gradient by its own formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

import lightning_compress.conf
from lightning_compress.quantization.quantizers.activation import ActivationQuantizer
from lightning_compress.quantization.quantizers.dorefa import DoReFa
from lightning_compress.quantization.quantizers.fake_quantize import FakeQuantize
from lightning_compress.quantization.quantizers.fixed_grid import FixedGrid
from lightning_compress.quantization.quantizers.lsq import LSQ
from lightning_compress.quantization.quantizers.lsq_activation import LSQActivation
from lightning_compress.quantization.quantizers.min_max import MinMax
from lightning_compress.quantization.quantizers.pact import PACT
from lightning_compress.quantization.quantizers.quantizer import Quantizer
from lightning_compress.quantization.quantizers.uniform import UniformQuantizer
from lightning_compress.quantization.quantizers.weight_format import WeightFormat
from lightning_compress.testing.quantizers import (
    ActivationQuantizerContract,
    QuantizerContract,
    UniformQuantizerContract,
    WeightFormatContract,
    class_behind,
)

FOLDER = Path(lightning_compress.conf.__file__).parent / "compress"
MAKERS = {
    file.stem: instantiate(OmegaConf.load(file))
    for group in ("quantizer", "codebook")
    for file in sorted((FOLDER / group).glob("*.yaml"))
}


def makers(base: type[Quantizer]) -> dict[str, Any]:
    """Return, for a class, the arguments of the fixture that makes its quantizers."""
    names = [name for name, make in MAKERS.items() if issubclass(class_behind(make), base)]
    return {"params": [MAKERS[name] for name in names], "ids": names}


class TestContract(QuantizerContract):
    @pytest.fixture(**makers(Quantizer))
    def make(self, request):
        return request.param


class TestWeights(WeightFormatContract):
    @pytest.fixture(**makers(WeightFormat))
    def make(self, request):
        return request.param


class TestUniform(UniformQuantizerContract):
    @pytest.fixture(**makers(UniformQuantizer))
    def make(self, request):
        return request.param


class TestActivations(ActivationQuantizerContract):
    @pytest.fixture(**makers(ActivationQuantizer))
    def make(self, request):
        return request.param


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_lsq_gradient_of_the_log_scale_is_equation_3_times_the_scale(bits):
    torch.manual_seed(0)
    w, upstream = torch.randn(4, 30, dtype=torch.float64), torch.randn(4, 30, dtype=torch.float64)
    quantizer = LSQ(bits, (4, 1))
    quantizer.initialize(w)
    (quantizer(w.float()) * upstream.float()).sum().backward()
    s, z = quantizer.scale_for(w).detach().double(), 0.5 if bits == 1 else 0.0
    low, high = -(2 ** (bits - 1)) + z, 2 ** (bits - 1) - 1 + z
    v = w / s
    levels = torch.where(v <= low, low, torch.where(v >= high, high, (v - z).round() + z))
    inside = (v > low - 1e-5) & (v < high + 1e-5)  # the largest weight may stand on the end of the grid
    derivative = torch.where(inside, levels - v, levels)
    expected = (30 * max(2 ** (bits - 1) - 1, 1)) ** 0.5 * s * (upstream * derivative).sum(1, keepdim=True)
    torch.testing.assert_close(quantizer.log_share.grad.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("signed", [True, False])
def test_lsq_activation_gradient_of_the_log_scale_is_equation_3_times_the_scale(bits, signed):
    torch.manual_seed(0)
    x, upstream = torch.randn(6, 50, dtype=torch.float64), torch.randn(6, 50, dtype=torch.float64)
    x = (x if signed else x.abs()).float().double()
    quantizer = LSQActivation(bits)
    quantizer(x.float())
    (quantizer(x.float()) * upstream.float()).sum().backward()
    s = quantizer.number.detach().double()
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    v = x / s
    levels = torch.where(v <= low, low, torch.where(v >= high, high, v.round()))
    derivative = torch.where((v > low) & (v < high), levels - v, levels)
    expected = (high / 50) ** 0.5 * s * (upstream * derivative).sum()  # 50 features, whatever the batch
    torch.testing.assert_close(quantizer.log_share.grad.double(), expected, rtol=1e-4, atol=1e-5)


def test_one_scale_in_all_gives_what_many_equal_ones_give():
    torch.manual_seed(0)
    low, high, upstream = torch.tensor(-4.0), torch.tensor(3.0), torch.randn(5, 40)
    found = []
    for shape in ((), (5, 1)):
        x = torch.linspace(-2, 2, 200).view(5, 40).requires_grad_()
        scale, log_scale = torch.full(shape, 0.3), torch.zeros(shape, requires_grad=True)
        quantized = FakeQuantize.apply(x, scale, low, high, None, log_scale, 0.5)
        (quantized * upstream).sum().backward()
        found.append((quantized.detach(), x.grad, log_scale.grad.sum()))
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


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("shape", [(), (4, 1)])
def test_dorefa_is_equation_9(bits, shape):
    w = 3 * torch.randn(4, 200, generator=torch.Generator().manual_seed(bits))
    wide = torch.tanh(w.double())
    largest = wide.abs().amax(1, keepdim=True) if shape else wide.abs().max()
    n = 2**bits - 1
    place = n * (wide / (2 * largest) + 0.5)
    expected = 2 * place.round() / n - 1
    clear = (place - place.floor() - 0.5).abs() > 1e-4  # fp32 may round the other way in the middle between levels
    found = DoReFa(bits, shape)(w)
    torch.testing.assert_close(found[clear], expected[clear].float())
    assert found.min() == pytest.approx(-1)
    assert found.max() == pytest.approx(1)


def test_dorefa_of_one_bit_is_equation_7():
    w = torch.tensor([[-1.0, 0.5, 0.3], [2.0, -4.0, 6.0]])
    torch.testing.assert_close(DoReFa(1)(w), w.sign() * w.abs().mean())
    torch.testing.assert_close(DoReFa(1, (2, 1))(w), w.sign() * w.abs().mean(1, keepdim=True))


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_dorefa_gradient_is_that_of_the_squashing(bits):
    w = torch.randn(50, generator=torch.Generator().manual_seed(0), requires_grad=True)
    upstream = torch.randn(50, generator=torch.Generator().manual_seed(1))
    (DoReFa(bits)(w) * upstream).sum().backward()
    with torch.no_grad():
        t = torch.tanh(w)
        at, m = int(t.abs().argmax()), t.abs().max()
        expected = upstream * (1 - t**2) / m
        expected[at] -= t[at].sign() * (upstream * t).sum() / m**2 * (1 - t[at] ** 2)
    torch.testing.assert_close(w.grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("alpha", [0.1, 0.7, 1.0, 3.3333, 6.0, 11.7])
def test_pact_is_equations_1_to_3(bits, alpha):
    x = (alpha * torch.linspace(0, 2, 41)).requires_grad_()  # 20 of them clipped, one at alpha itself
    quantizer = PACT(bits)
    quantizer(x.detach())
    quantizer.settle()
    quantizer.set_number(torch.tensor(alpha))
    found = quantizer(x)
    found.sum().backward()
    y = 0.5 * (x.abs() - (x - alpha).abs() + alpha).detach().double()
    place = y * (2**bits - 1) / alpha
    clear = (place - place.floor() - 0.5).abs() > 1e-4
    expected = place.round() * alpha / (2**bits - 1)
    torch.testing.assert_close(found.detach()[clear], expected.float()[clear])
    off = torch.arange(41) != 20
    assert torch.equal(x.grad[off], (x < alpha).float()[off])
    assert 20 - 1e-5 <= float(quantizer.level.grad) / alpha <= 21 + 1e-5


def test_pact_clips_both_ends_of_inputs_with_both_signs():
    quantizer = PACT(3)
    quantizer(torch.linspace(-1, 1, 50))
    quantizer.settle()
    quantizer.set_number(torch.tensor(3.0))
    x = torch.tensor([-9.0, -4.2, -1.2, 0.0, 2.2, 5.0], requires_grad=True)
    found = quantizer(x)
    torch.testing.assert_close(found, torch.tensor([-4.0, -4.0, -1.0, 0.0, 2.0, 3.0]))
    found.sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 1, 1, 0]
    assert float(quantizer.level.grad) / 3 == pytest.approx(1 - 2 * 4 / 3)


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_a_fixed_grid_takes_levels_between_the_multiples_of_its_scale(bits):
    w = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    quantizer = DoReFa(bits, (6, 1))
    codes, scale = quantizer.codes(w)
    grid = FixedGrid(bits, (6, 1), float(quantizer.zero))
    grid.scale.copy_(scale)
    assert torch.equal(grid.decode(codes, scale), quantizer(w))
    assert torch.equal(grid(quantizer(w)), quantizer(w))
    assert torch.equal(grid.codes(quantizer(w))[0], codes)


def test_min_max_reference_values():
    w = torch.tensor([[-1.0, 0.5, 0.2], [0.0, 6.0, -3.0]])
    quantizer = MinMax(3, (2, 1))
    expected = torch.tensor([[-1.0, 2 / 3, 1 / 3], [0.0, 6.0, -4.0]])  # steps of 1/3 and 2; -1.5 rounds to even
    torch.testing.assert_close(quantizer(w), expected)
    one_bit = MinMax(1, (2, 1))(w)
    torch.testing.assert_close(one_bit.abs(), w.abs().mean(1, keepdim=True).expand(2, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_outside_mixed_precision_the_type_of_a_tensor_stays(dtype):
    x = torch.randn(4, 8, dtype=dtype)
    for quantizer in (LSQ(4), MinMax(4), LSQActivation(4), PACT(4)):
        assert quantizer(x).dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert LSQ(4)(x).dtype == torch.float32


def test_what_a_file_calibrated_can_be_exported_before_it_runs():
    quantizer = LSQActivation(4)
    quantizer.unpack(torch.tensor([0.1, 1.0]))
    x = torch.randn(2, 3)
    exported = torch.export.export(quantizer, (x,)).module()
    torch.testing.assert_close(exported(x), quantizer(x))


@pytest.mark.parametrize("make", [LSQActivation, PACT])
def test_what_calls_calibrated_can_be_exported(make):
    quantizer, x = make(4).eval(), torch.randn(2, 3)
    quantizer(x)
    exported = torch.export.export(quantizer, (x,)).module()
    torch.testing.assert_close(exported(x), quantizer(x))


def test_hooks_of_others_on_an_activation_quantizer_stay():
    seen = []
    quantizer = LSQActivation(8)
    quantizer.register_forward_pre_hook(lambda module, args: seen.append(args))
    quantizer(torch.rand(8))
    for change in (quantizer.settle, quantizer.look, quantizer.settle):
        change()
        before = len(seen)
        quantizer(torch.rand(8))
        assert len(seen) == before + 1
