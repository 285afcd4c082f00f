"""Learned noise: its formulas against integrals and sampling, what it drops, and what is left of it afterwards."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import Trainer, seed_everything
from lightning.pytorch.plugins import MixedPrecision
from scipy.integrate import quad
from scipy.stats import truncnorm
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_compress.callbacks.information_dropout import InformationDropout
from lightning_compress.callbacks.variational_dropout import VariationalDropout
from lightning_compress.core.errors import CompressError
from lightning_compress.pruning.noise.gaussian import GaussianNoise
from lightning_compress.pruning.noise.information import ALPHA_MAX, InformationNoise
from lightning_compress.pruning.noise.log_normal import HIGH, LOW, LogNormalNoise
from lightning_compress.surgery.transforms import attach_output, attach_weight
from lightning_compress.testing.toys import QUIET, PlainModule, toy_data

EXAMPLE = torch.zeros(2, 1, 8, 8)


LAYERS = ("stem.0", "conv1", "conv2", "fc")


def exact_kl(alpha: float) -> float:
    """KL(N(1, alpha) || log-uniform) up to its constant: E log|eps| - log(alpha) / 2."""

    def term(z: float) -> float:
        return np.log(abs(1 + np.sqrt(alpha) * z) + 1e-300) * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)

    pole = -1 / np.sqrt(alpha)
    parts = [(-12, pole), (pole, 12)] if -12 < pole < 12 else [(-12, 12)]
    return sum(quad(term, a, b, limit=200)[0] for a, b in parts) - 0.5 * np.log(alpha)


def test_the_kl_of_gaussian_noise_is_the_integral():
    noise = GaussianNoise((1, 1), (1, 1))
    limit = exact_kl(1e6)  # where the noise is everything, and the approximation is zero
    for log_alpha in (-6.0, -3.0, -1.0, 0.0, 1.0, 3.0, 6.0):
        with torch.no_grad():
            noise.raw_log_variance.fill_(log_alpha / noise.speed)
        found = float(noise.kl(torch.ones(1, 1)))
        assert found == pytest.approx(exact_kl(np.exp(log_alpha)) - limit, abs=0.012)


def test_the_kl_of_a_slice_is_that_of_its_weights():
    weight = torch.randn(6, 4, 1, 1).expand(6, 4, 3, 3)
    slices, single = (GaussianNoise(weight.shape, grain) for grain in ((6, 4, 1, 1), weight.shape))
    torch.testing.assert_close(slices.kl(weight), single.kl(weight))


@pytest.mark.parametrize("grain", [(6, 4, 3, 3), (6, 4, 1, 1)], ids=["element", "kernel"])
def test_noise_on_outputs_is_noise_on_weights(grain):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, padding=1, stride=2)
    noise = GaussianNoise(layer.weight.shape, grain)
    attach_weight(layer, noise)
    with torch.no_grad():
        noise.raw_log_variance.copy_((torch.randn(grain) - 3) / noise.speed)
    x, weight = torch.randn(1, 4, 7, 7), layer.parametrizations["weight"].original.detach()
    std = (noise.raw_log_variance.detach() * noise.speed / 2).exp().expand(weight.shape)
    drawn = torch.stack(
        [nn.functional.conv2d(x, weight + std * torch.randn_like(weight), layer.bias, 2, 1) for _ in range(4000)]
    )
    layer.train()
    with torch.no_grad():
        local = torch.stack([layer(x) for _ in range(4000)])
    assert ((local.mean(0) - drawn.mean(0)).abs() < 5 * (2 / 4000) ** 0.5 * drawn.std(0)).all()
    torch.testing.assert_close(local.std(0), drawn.std(0), atol=0, rtol=0.12)
    assert torch.equal(layer.eval()(x), layer(x))


@pytest.mark.parametrize(("mean", "log_scale"), [(0.0, -3.0), (-2.0, 0.0), (-5.0, 1.5), (1.0, -1.0)])
def test_the_kl_and_snr_of_log_normal_noise_are_those_of_scipys_distribution(mean, log_scale):
    noise = LogNormalNoise(1)
    with torch.no_grad():
        noise.raw_mean.fill_(mean / noise.speed)
        noise.raw_log_scale.fill_(log_scale / noise.speed)
    scale = float(np.exp(log_scale))
    z = truncnorm((LOW - mean) / scale, (HIGH - mean) / scale, mean, scale)
    entropy = float(z.entropy())
    assert float(noise.kl(torch.empty(0))) == pytest.approx(np.log(HIGH - LOW) - entropy, abs=1e-5)
    first, second = (z.expect(lambda v, k=k: np.exp(k * v)) for k in (1, 2))
    assert float(noise.snr()) == pytest.approx(first / np.sqrt(second - first**2), rel=1e-3)


@given(mean=st.floats(-30, 30), log_scale=st.floats(-8, 5))
@settings(deadline=None)
def test_log_normal_noise_never_amplifies_wherever_training_takes_it(mean, log_scale):
    noise = LogNormalNoise(1)
    with torch.no_grad():
        noise.raw_mean.fill_(mean / noise.speed)
        noise.raw_log_scale.fill_(log_scale / noise.speed)
    first, variance = noise.moments()
    kl = noise.kl(torch.empty(0))
    gradients = torch.autograd.grad(kl + first.sum(), [noise.raw_mean, noise.raw_log_scale])
    assert 0 <= float(first) <= 1 + 1e-9
    assert 0 < float(variance) <= 1
    assert all(torch.isfinite(value).all() for value in (noise.snr(), kl, *gradients))


def test_log_normal_noise_has_its_moments():
    torch.manual_seed(0)
    noise = LogNormalNoise(3).train()
    with torch.no_grad():
        noise.raw_mean.copy_(torch.tensor([0.0, -1.0, -2.0]) / noise.speed)
        noise.raw_log_scale.copy_(torch.tensor([-2.0, 0.0, 0.5]) / noise.speed)
        drawn = noise(torch.ones(40_000, 3, 1, 1)).flatten(1)
    mean, variance = noise.moments()
    torch.testing.assert_close(drawn.mean(0), mean.float(), atol=0, rtol=0.03)
    torch.testing.assert_close(drawn.var(0), variance.float(), atol=0, rtol=0.1)
    torch.testing.assert_close(noise.snr(), (mean / variance.sqrt()).float())


@pytest.mark.parametrize("host", [nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1, bias=False)])
def test_ending_log_normal_noise_leaves_its_gate_in_the_parameters(host):
    noise = LogNormalNoise(3)
    attach_output(host, noise)
    with torch.no_grad():
        noise.raw_mean.copy_(torch.tensor([0.0, -0.1, -0.2]))
    x = torch.randn(4, 3, 5, 5)
    before = host.eval()(x)
    noise.end(host)
    torch.testing.assert_close(host(x), before)


def test_information_noise_goes_before_an_activation_that_works_in_place():
    layer = nn.Conv2d(2, 3, 3)
    attach_output(layer, InformationNoise(layer.weight.shape, (1, 0, 1, 1)).train())
    nn.ReLU(inplace=True)(layer(torch.randn(2, 2, 5, 5))).sum().backward()
    assert layer.weight.grad.any()


def test_information_noise_has_mean_one_and_adds_its_kl_to_the_loss():
    torch.manual_seed(0)
    layer, x = nn.Conv2d(2, 3, 3, padding=1), torch.randn(5, 2, 6, 6)
    noise = InformationNoise(layer.weight.shape, ([1, 1], [1, 1], [1, 1], 1))
    attach_output(layer, noise)
    with torch.no_grad():
        noise.weight.normal_(0, 0.3)
        clean = layer.eval()(x)
        mean = torch.stack([layer.train()(x) for _ in range(3000)]).mean(0)
    torch.testing.assert_close(mean, clean, atol=0.1, rtol=0.1)
    noise.strength.fill_(0.25)
    noise.draws.fill_(7)
    layer(x).sum().backward()
    noise.draws.fill_(7)
    drawn = torch.randn(5, 3, 6, 6, generator=noise.generator(x.device))
    u = nn.functional.conv2d(x, noise.weight, noise.bias, padding=1).clamp_min(-7)
    alpha = ALPHA_MAX * torch.sigmoid(u)
    noisy = layer.eval()(x).detach() * (alpha * drawn - alpha.square() / 2).exp()
    loss = noisy.sum() + 0.25 * -(alpha / ALPHA_MAX).log().sum() / len(x)
    expected = torch.autograd.grad(loss, [noise.weight, noise.bias])
    torch.testing.assert_close(noise.weight.grad, expected[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(noise.bias.grad, expected[1], rtol=1e-3, atol=1e-3)


class Scaled(MixedPrecision):
    """The loss is scaled as in fp16, and all numbers stay in fp32."""

    def forward_context(self):
        return nullcontext()


@pytest.mark.parametrize("fused", [False, True], ids=["plain optimizer", "optimizer that unscales"])
@pytest.mark.parametrize("make", [
    lambda: InformationDropout({"conv1": {"information": 1}}, strength=5.0, warmup=(0.0, 0.0)),
    lambda: VariationalDropout({"conv1": {"variational": 1}}, strength=5.0, warmup=(0.0, 0.0)),
], ids=["information", "variational"])  # fmt: skip
def test_the_kl_weighs_as_much_when_the_loss_is_scaled(make, fused):
    found = []
    for scale in (1.0, 4096.0):
        seed_everything(1, verbose=False)
        module = PlainModule()
        module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.1, fused=fused)  # noqa: B023
        plugin = Scaled("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))
        Trainer(max_steps=1, callbacks=[make()], plugins=[plugin], **QUIET).fit(module, *toy_data(0))
        noise = next(m for m in module.modules() if isinstance(m, (InformationNoise, GaussianNoise)))
        found.append([p.detach().clone() for p in noise.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("log_variance", [0.0, 3.0, 6.0, 40.0])
@pytest.mark.parametrize("grain", [(8, 4), (8, 1)])
def test_of_a_layer_that_is_all_noise_one_unit_stays(log_variance, grain):
    torch.manual_seed(0)
    layer = nn.Linear(4, 8)
    noise = GaussianNoise((8, 4), grain)
    attach_weight(layer, noise)
    with torch.no_grad():
        noise.raw_log_variance.fill_(log_variance / noise.speed)
    noise.threshold = -100.0
    noise.end(layer)
    power = layer.parametrizations["weight"].original.square()
    strongest = power.mean(1, keepdim=True) if grain[1] == 1 else power
    assert torch.equal(noise.mask, (strongest == strongest.max()).expand(8, 4))


@pytest.mark.parametrize("make", [lambda: GaussianNoise((4, 3, 3, 3), (4, 3, 3, 3)), lambda: LogNormalNoise(4),
                                  lambda: InformationNoise((4, 3, 3, 3), (1, 1, 1, 1))],
                         ids=["gaussian", "log-normal", "information"])  # fmt: skip
def test_a_layer_that_is_run_again_in_the_backward_pass_gets_the_same_noise(make):
    x, gradients = torch.randn(2, 3, 6, 6), []
    for again in (False, True):
        torch.manual_seed(0)
        layer, noise = nn.Conv2d(3, 4, 3, padding=1), make()
        attach_weight(layer, noise) if isinstance(noise, GaussianNoise) else attach_output(layer, noise)
        noise.train()
        y = checkpoint(layer, x, use_reentrant=False) if again else layer(x)
        y.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in layer.parameters() if p.grad is not None]))
        assert int(noise.draws) == 1
    torch.testing.assert_close(*gradients)


def test_a_layer_that_ran_twice_is_not_run_again_with_other_noise():
    layer, noise = nn.Conv2d(3, 3, 3, padding=1), LogNormalNoise(3)
    attach_output(layer, noise)
    y = checkpoint(lambda x: layer(layer(x)), torch.randn(2, 3, 6, 6), use_reentrant=False)
    with pytest.raises(CompressError, match="LogNormalNoise: a layer that runs several times in a step"):
        y.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_mixed_precision_dead_and_large_inputs_give_finite_gradients(dtype):
    layer, noise = nn.Linear(3, 4), GaussianNoise((4, 3), (4, 3))
    attach_weight(layer, noise)
    x = torch.tensor([[0.0, 0.0, 0.0], [300.0, 0.0, 0.0]])
    with torch.autocast("cpu", dtype):
        y = layer(x)
    y.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_a_training_that_diverged_is_not_made_permanent():
    torch.manual_seed(0)
    module, noise = PlainModule(), VariationalDropout({"conv1": {"variational": 1}}, strength=1e30)
    with pytest.raises(CompressError, match="the training loss became nan at step"):
        Trainer(max_epochs=1, callbacks=[noise], **QUIET).fit(module, toy_data(0)[0])
    assert not module.model.conv1.weight.isfinite().all()
    with pytest.raises(CompressError, match=r"VariationalDropout: training diverged: .* 'conv1' is not finite"):
        noise.on_train_end(None, module)
