"""Test what the layers behind removed ones start from: least squares, the weights there were, or new ones."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from lightning import seed_everything
from omegaconf import OmegaConf
from test_input_moments import pulled
from test_layer_removal import EXAMPLE, Chain
from torch import nn

import lightning_compress.conf
from lightning_compress.callbacks.layer_removal import LayerRemoval
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.errors import CompressError
from lightning_compress.pruning.initializers.inherit import Inherit
from lightning_compress.pruning.initializers.least_squares import LeastSquares
from lightning_compress.pruning.initializers.restart import Restart
from lightning_compress.testing.toys import PlainModule, ToyNet, toy_data
from lightning_compress.vision.models.resnet_cifar import ResNetCIFAR

INITIALIZERS = Path(lightning_compress.conf.__file__).parent / "compress" / "initializer"


def calibrated(initialize) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """Return a dense network, the same without two layers, and the images that it was calibrated with."""
    seed_everything(0, verbose=False)
    module = PlainModule()
    module.model = Chain().eval()
    dense = copy.deepcopy(module.model)
    batches = [torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    callback = LayerRemoval({"features.3": {"keep": 0}}, initialize)
    callback.calibrate(module, [(x, None) for x in batches])
    callback.apply(module.model, EXAMPLE)
    return dense, module.model, torch.cat(batches)


def test_least_squares_is_the_best_weight_for_the_layer_behind():
    dense, thin, x = calibrated(LeastSquares(positions=100))
    with torch.no_grad():
        target = dense.features[:8](x) - dense.features[7].bias.view(1, -1, 1, 1)
        rows = nn.functional.unfold(thin.features[:7](x), 3, padding=1).transpose(1, 2).flatten(0, 1)
    wanted = target.flatten(2).transpose(1, 2).flatten(0, 1)
    expected = pulled(rows.double(), wanted.double(), torch.zeros(36, 8).double()).T.reshape(8, 4, 3, 3)
    torch.testing.assert_close(thin.features[7].weight.detach().double(), expected, rtol=1e-3, atol=1e-4)


def residual(initialize) -> tuple[nn.Module, nn.Module]:
    """Return a small ResNet, dense and without two of its blocks."""
    seed_everything(0, verbose=False)
    module = PlainModule()
    module.model = ResNetCIFAR(2, in_channels=1, width=4).eval()
    dense = copy.deepcopy(module.model)
    callback = LayerRemoval({"layer1.1": {"keep": 0}, "layer3.1": {"keep": 0}}, initialize)
    callback.calibrate(module, torch.randn(8, 32, 1, 8, 8))
    callback.apply(module.model, EXAMPLE)
    return dense, module.model


def test_least_squares_mends_what_reads_a_removed_block():
    errors, x = [], torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    for initialize in (Inherit(), LeastSquares()):
        dense, thin = residual(initialize)
        with torch.no_grad():
            errors.append(float((dense(x) - thin(x)).square().sum() / dense(x).square().sum()))
        changed = {n for n, w in thin.named_parameters() if not torch.equal(w, dense.get_parameter(n))}
    assert changed == {"layer2.0.conv1.weight", "layer2.0.shortcut.0.weight", "fc.weight"}
    assert errors[1] < 0.7 * errors[0]


def test_a_reader_that_shares_its_weight_keeps_it():
    module = PlainModule()
    module.model = net = ResNetCIFAR(3, in_channels=1, width=4).eval()
    net.layer1[2].conv1.weight = net.layer1[0].conv1.weight
    before = {name: value.clone() for name, value in net.state_dict().items()}
    callback = LayerRemoval({"layer1.1": {"keep": 0}, "layer3.2": {"keep": 0}})
    callback.calibrate(module, toy_data(0)[0])
    callback.apply(net, EXAMPLE)
    assert net.layer1[2].conv1.weight is net.layer1[0].conv1.weight
    assert torch.equal(net.layer1[0].conv1.weight, before["layer1.0.conv1.weight"])
    assert not torch.equal(net.fc.weight, before["fc.weight"])


def test_a_quantized_reader_keeps_its_weight():
    module = PlainModule()
    module.model = net = ResNetCIFAR(1, in_channels=1, width=4).eval()
    QuantizationAwareTraining({"layer2.0.conv1": {"weight_bits": 4}}).apply(net, EXAMPLE)
    before = net.layer2[0].conv1.weight.detach().clone()
    callback = LayerRemoval({"layer1.0": {"keep": 0}})
    callback.calibrate(module, toy_data(0)[0])
    callback.apply(net, EXAMPLE)
    assert torch.equal(net.layer2[0].conv1.weight, before)


def test_inherit_keeps_all_but_what_got_narrower_and_restart_keeps_nothing():
    dense, thin, _ = calibrated(Inherit())
    assert torch.equal(dense.features[0].weight, thin.features[0].weight)
    assert torch.equal(dense.features[10].weight, thin.features[10].weight)
    assert thin.features[7].weight.abs().max() > 0
    _, fresh, _ = calibrated(Restart())
    assert not torch.equal(dense.features[0].weight, fresh.features[0].weight)
    assert not torch.equal(dense.classifier[2].weight, fresh.classifier[2].weight)


@pytest.mark.parametrize("file", sorted(INITIALIZERS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_initializer_leaves_no_layer_at_zero_and_is_given_the_same_structure(file):
    dense, thin, x = calibrated(instantiate(OmegaConf.load(file)))
    assert thin(x).isfinite().all()
    assert thin.features[7].weight.shape == (8, 4, 3, 3)
    assert thin.features[7].bias.shape == dense.features[7].bias.shape
    assert all(parameter.requires_grad for parameter in thin.parameters())
    assert all(layer.weight.abs().sum((1, 2, 3)).min() > 0 for layer in thin.features if isinstance(layer, nn.Conv2d))


def test_without_gathered_images_least_squares_says_so():
    with pytest.raises(CompressError, match="no batches were gathered"):
        LayerRemoval({"conv1": {"keep": 0}}).apply(ToyNet(), EXAMPLE)
