"""Refits on inputs that they have not seen: few rows, many features, few digits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.pruning.input_moments import KEY, gather_moments
from lightning_compress.pruning.reconstruction.asymmetric import Asymmetric
from lightning_compress.pruning.reconstruction.symmetric import Symmetric, refitted
from lightning_compress.surgery import input_rows
from lightning_compress.surgery.calibration import calibration_of
from lightning_compress.testing.toys import PlainModule


class Source:
    """Inputs of a layer: outputs of a random layer behind a ReLU, correlated, none of them negative."""

    def __init__(self, convolution: bool) -> None:
        torch.manual_seed(0)
        self.convolution = convolution
        self.before = nn.Conv2d(8, 64, 3, padding=1) if convolution else nn.Linear(64, 512)
        self.layer = nn.Conv2d(64, 64, 3, padding=1, bias=False) if convolution else nn.Linear(512, 10, bias=False)

    @torch.no_grad()
    def __call__(self, images: int) -> Tensor:
        if self.convolution:
            return self.before(nn.functional.avg_pool2d(torch.randn(images, 8, 10, 10), 3, 1)).relu()
        return (self.before(torch.randn(images, 64)) + 0.1 * torch.randn(images, 512)).relu()


def error(layer: nn.Module, weight: Tensor, kept: Tensor, x: Tensor) -> float:
    """Return the error of the outputs from the kept channels, relative to the outputs."""
    thin = copy.deepcopy(layer)
    thin.weight = nn.Parameter(weight)
    with torch.no_grad():
        return float((thin(x[:, kept]) - layer(x)).square().sum() / layer(x).square().sum())


def errors(source: Source, keep: int, batches: int, batch: int):
    """Return errors on held-out inputs, without and with a symmetric refit."""
    layer = source.layer
    kept = torch.randperm(layer.weight.shape[1])[:keep].sort().values
    net = nn.Sequential(layer)
    gather_moments(net, [source(batch) for _ in range(batches)])
    weights = layer.weight.detach()[:, kept], refitted(layer.weight.detach(), calibration_of(net, KEY)["0"], kept)
    test = source(200)
    return [error(layer, weight, kept, test) for weight in weights]


@pytest.mark.parametrize("images", [1, 8, 32, 128])
@pytest.mark.parametrize("more", [True, False], ids=["more places", "ten places"])
def test_a_convolution_gains_from_any_number_of_images(images, more, monkeypatch):
    if not more:
        monkeypatch.setattr(input_rows, "ROWS_PER_FEATURE", 0)
    before, after = errors(Source(convolution=True), 40, 1, images)
    assert after < 0.95 * before if images == 1 else after < 0.7 * before


@pytest.mark.parametrize("keep", [100, 300, 480, 500])
@pytest.mark.parametrize("batches", [2, 8, 32])
def test_a_linear_layer_gains_from_about_a_row_for_each_feature(keep, batches):
    before, after = errors(Source(convolution=False), keep, batches, 64)
    assert after < 0.65 * before


def test_places_are_added_until_there_are_three_rows_for_each_feature():
    net = nn.Sequential(nn.Conv2d(8, 4, 3), nn.Conv2d(4, 4, 1))
    gather_moments(net, [torch.randn(4, 8, 12, 12), torch.randn(4, 8, 12, 12)], 5)
    wide, narrow = (calibration_of(net, KEY)[name] for name in "01")
    assert (wide.rows, narrow.rows) == (8 * 27, 8 * 5)  # of 72 features and of 4


def test_a_wide_layer_is_refitted_too_in_fewer_digits():
    torch.manual_seed(0)
    before, layer = nn.Linear(16, 2500), nn.Linear(2500, 10, bias=False)
    net, kept = nn.Sequential(layer), torch.arange(0, 2500, 2)
    with torch.no_grad():
        gather_moments(net, [before(torch.randn(400, 16)).relu() for _ in range(2)])
        test = before(torch.randn(400, 16)).relu()
    found = calibration_of(net, KEY)["0"]
    assert found.features.dtype == torch.float32
    weight = layer.weight.detach()
    assert error(layer, refitted(weight, found, kept), kept, test) < 0.1 * error(layer, weight[:, kept], kept, test)


class Tied(nn.Sequential):
    """Four layers, the second and third of which share their weight."""

    def __init__(self, tied: bool) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4))
        self[2].weight = self[1].weight if tied else nn.Parameter(self[1].weight.detach().clone())


@pytest.mark.parametrize("refit", [Symmetric(), Asymmetric()], ids=lambda refit: type(refit).__name__)
def test_a_weight_that_layers_share_is_refitted_for_the_one_that_reads_pruned_channels(refit):
    found = []
    for tied in (True, False):
        module, x = PlainModule(), torch.randn(2, 64, 12, generator=torch.Generator().manual_seed(0))
        module.model = Tied(tied)
        before = module.model[2].weight.detach().clone()
        callback = ChannelPruning({"0": {"channels": 0.5}}, refit=refit)
        callback.calibrate(module, x)
        callback.apply(module.model, x[0, :2])
        assert torch.equal(module.model[2].weight, before)
        found.append(module.model[1].weight)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("refit", [Symmetric(), Asymmetric()], ids=lambda refit: type(refit).__name__)
def test_sums_in_float32_give_the_weights_of_float64(refit, monkeypatch):
    found = []
    for digits in (input_rows.DOUBLE, 0):
        monkeypatch.setattr(input_rows, "DOUBLE", digits)
        torch.manual_seed(0)
        module, images = PlainModule(), torch.randn(8, 32, 1, 8, 8) + 1
        callback = ChannelPruning({"conv1": {"channels": 0.5}, "stem.0": {"channels": 0.5}}, refit=refit)
        callback.calibrate(module, images)
        callback.apply(module.model, images[0, :2])
        found.append(module.model.state_dict())
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], rtol=1e-3, atol=1e-4)
