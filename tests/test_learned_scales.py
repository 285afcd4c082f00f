"""Positive learned quantities come back from any step, and no step of theirs depends on a unit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.pruning.noise.gaussian import GaussianNoise
from lightning_compress.pruning.noise.log_normal import LogNormalNoise
from lightning_compress.quantization.quantizers.codebook import Codebook
from lightning_compress.quantization.quantizers.lsq import LSQ
from lightning_compress.quantization.quantizers.lsq_activation import LSQActivation
from lightning_compress.quantization.quantizers.min_max import MinMax
from lightning_compress.quantization.quantizers.pact import PACT
from lightning_compress.surgery.bounded import held, reflected
from lightning_compress.testing.toys import QUIET
from tests.test_calibration import Module

MAKERS = {"lsq": LSQ, "lsq_activation": LSQActivation, "pact": PACT}


def ready(kind: str, x: torch.Tensor, bits: int = 4):
    quantizer = MAKERS[kind](bits)
    quantizer.initialize(x) if kind == "lsq" else quantizer(x)
    if kind != "lsq":
        quantizer.settle()
    return quantizer


@given(st.floats(-1e6, 1e6), st.floats(-5, 5), st.floats(0.1, 5))
def test_reflection_stays_inside_with_a_slope_of_one(x, low, width):
    x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    found = reflected(x, low, low + width)
    found.backward()
    assert low - 1e-6 <= float(found.detach()) <= low + width + 1e-6
    assert abs(float(x.grad)) == 1
    if low <= float(x.detach()) <= low + width:
        assert float(found.detach()) == pytest.approx(float(x.detach()), abs=1e-6)


def test_a_held_number_passes_the_gradients_that_lead_back():
    x = torch.tensor([-3.0, -3.0, 0.5, 3.0, 3.0], requires_grad=True)
    (held(x, -1, 1) * torch.tensor([1.0, -1.0, 2.0, 1.0, -1.0])).sum().backward()
    assert x.grad.tolist() == [0, -1, 2, 1, 0]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("jump", [-1000.0, -7.3, -1.0, 5.0, 400.0])
def test_a_scale_comes_back_from_any_step(kind, jump):
    torch.manual_seed(0)
    x = torch.randn(2000)
    quantizer = ready(kind, x)
    before = float((quantizer(x) - x).square().mean())
    (parameter,) = quantizer.parameters()
    with torch.no_grad():
        parameter.add_(jump)
    optimizer = torch.optim.Adam([parameter], 0.02)
    for _ in range(600):
        optimizer.zero_grad()
        (quantizer(x) - x).square().mean().backward()
        optimizer.step()
    assert float((quantizer(x) - x).square().mean()) <= 2 * before


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("unit", [1e-12, 1e-4, 1e4, 1e12])
def test_the_step_of_a_scale_does_not_depend_on_its_unit(kind, optimizer, unit):
    ratios = []
    for factor in (1.0, unit):
        torch.manual_seed(0)
        x, upstream = torch.randn(200, 10) * factor, torch.randn(200, 10) / factor
        quantizer = ready(kind, x)
        steps = optimizer(quantizer.parameters(), 1e-3)
        start = float(quantizer.scale_for(x))
        for _ in range(5):
            steps.zero_grad()
            (quantizer(x) * upstream).sum().backward()
            steps.step()
        ratios.append(float(quantizer.scale_for(x)) / start)
    assert ratios[0] != 1
    assert ratios[1] == pytest.approx(ratios[0], rel=2e-2)


class Zeros(nn.Module):
    """A head that begins with zeros, as a residual branch or LoRA's B does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.conv(x)).mean((2, 3)))


def loss_after_training(make, bits: int) -> float:
    seed_everything(0, verbose=False)
    x = torch.randn(128, 3, 6, 6)
    y = (x.mean((1, 2, 3)) * 25).clamp(-1.5, 1.49).floor().long() + 2
    module = Module(Zeros(), lr=0.2)
    callback = QuantizationAwareTraining({"head": {"weight_bits": bits}}, weight_quantizer=make)
    Trainer(max_epochs=12, callbacks=[callback], **QUIET).fit(module, DataLoader(TensorDataset(x, y), 32))
    with torch.no_grad():
        return float(F.cross_entropy(module.net(x), y))


@pytest.mark.parametrize("make", [LSQ, Codebook])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_layer_that_begins_with_zeros_trains_as_with_min_max(make, bits):
    assert loss_after_training(make, bits) <= 1.1 * loss_after_training(MinMax, bits)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_noise_on_weights_begins_as_quiet_in_any_unit(unit):
    weight = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)) * unit
    noise = GaussianNoise((20, 30), (20, 30))
    noise.start(weight)
    reference = GaussianNoise((20, 30), (20, 30))
    reference.start(weight / unit)
    torch.testing.assert_close(noise.log_alpha(weight), reference.log_alpha(weight / unit), rtol=1e-3, atol=1e-3)
    assert (noise.log_alpha(weight) < noise.threshold).float().mean() > 0.95


def test_noise_that_was_thrown_below_its_bounds_comes_back():
    """The KL asks for more noise, also where there is far too little for it to matter."""
    weight, noise, normal = torch.ones(4, 4), GaussianNoise((4, 4), (4, 4)), LogNormalNoise(4)
    for parameter, kl in ((noise.raw_log_variance, noise.kl), (normal.raw_log_scale, normal.kl)):
        with torch.no_grad():
            parameter.fill_(-5.0)
        kl(weight).backward()
        assert (parameter.grad < 0).all()
