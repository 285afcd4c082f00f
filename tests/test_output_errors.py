"""Output errors that callbacks report to the closed-form planner."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.layer_removal import LayerRemoval
from lightning_compress.callbacks.low_rank import LowRank
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.pruning.criteria.gram import Gram
from lightning_compress.pruning.input_moments import gather_moments
from lightning_compress.pruning.reconstruction.symmetric import Symmetric
from lightning_compress.quantization.quantizers.min_max import MinMax
from lightning_compress.surgery import measure
from lightning_compress.vision.models.resnet_cifar import resnet8

CALLBACKS = [
    ChannelPruning(criterion=Gram(), refit=Symmetric()),
    ChannelPruning(),
    WeightPruning(),
    QuantizationAwareTraining(),
    QuantizationAwareTraining(weight_quantizer=MinMax, act_bits=()),
    LowRank(),
    LayerRemoval(),
]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    net = resnet8(in_channels=1, width=8)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return net.eval()


def errors_of(callback, net):
    torch.manual_seed(1)
    batches = [torch.randn(16, 1, 8, 8), torch.randn(16, 1, 8, 8)]
    net = copy.deepcopy(net)
    gather_moments(net, batches)
    profile = measure.measure(net, batches[0][:2])
    choices = callback.choices(net, profile, batches[0][:2])
    return net, profile, choices, callback.output_errors(choices, net, profile, batches[0][:2], batches)


@pytest.mark.parametrize("callback", CALLBACKS, ids=lambda c: type(c).__name__)
def test_every_value_has_an_error_and_the_dearest_the_least(callback, network):
    net, profile, choices, errors = errors_of(callback, network)
    assert [len(found) for found in errors] == [len(choice.values) for choice in choices]
    flat = torch.tensor([value for found in errors for value in found])
    assert flat.isfinite().all()
    assert (flat >= 0).all()
    assert all(found[-1] <= min(found) + 1e-9 for found in errors)
    assert any(found[0] > found[-1] for found in errors)
    assert measure.measure(net, torch.zeros(2, 1, 8, 8)) == profile


def test_a_quantized_layer_has_the_error_of_its_own_output(network):
    callback = QuantizationAwareTraining(weight_quantizer=MinMax, act_bits=())
    net, _, choices, errors = errors_of(callback, network)
    torch.manual_seed(1)
    x = torch.randn(16, 1, 8, 8)
    i = next(i for i, choice in enumerate(choices) if choice.layer == "conv1")
    weight = net.conv1.weight.detach()
    for bits, error in zip(choices[i].values, errors[i], strict=True):
        high = 2 ** (bits - 1) - 1
        scale = weight.abs().amax((1, 2, 3), keepdim=True) / high
        rounded = (weight / scale).round() * scale
        outputs = [nn.functional.conv2d(x, w, padding=1) for w in (weight, rounded)]
        relative = float((outputs[1] - outputs[0]).square().sum() / outputs[0].square().sum())
        if bits > 2:  # one level on either side of zero may be placed otherwise
            assert error == pytest.approx(relative / (1 - relative), rel=0.05)


def test_a_refit_lowers_the_errors_of_channels(network):
    with_refit, without = (
        errors_of(ChannelPruning(criterion=Gram(), refit=refit), network)[3] for refit in (Symmetric(), None)
    )
    assert all(a <= b + 1e-9 for x, y in zip(with_refit, without, strict=True) for a, b in zip(x, y, strict=True))


class Resting(nn.Module):
    """A network one layer of which does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.head, self.resting = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(6, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.head(self.used(x).relu())
        return y if len(x) < 8 else y + self.resting(x)[:, :4]


CHANNELS = ChannelPruning(criterion=Gram(), refit=Symmetric())
CONV3D = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 8, 3, padding=1), nn.ReLU(),
                       nn.Conv3d(8, 4, 3), nn.Flatten())  # fmt: skip


@pytest.mark.parametrize(("callback", "net", "example"), [
    (CHANNELS, nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU(), nn.Conv1d(8, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3)),
     torch.randn(4, 2, 16)),
    (CHANNELS, CONV3D, torch.randn(4, 1, 4, 4, 4)),
    (CHANNELS, nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), torch.randn(4, 5, 16)),
    (QuantizationAwareTraining(), Resting(), torch.randn(4, 6)),
], ids=["Conv1d", "Conv3d", "heads", "a layer that rests"])  # fmt: skip
def test_no_choice_is_free_where_inputs_of_layers_are_not_known(callback, net, example):
    net.eval()
    profile = measure.measure(net, example)
    gather_moments(net, [example])
    choices = callback.choices(net, profile, example)
    assert choices
    for choice, errors in zip(choices, callback.output_errors(choices, net, profile, example, [example]), strict=True):
        assert errors[-1] < errors[0], choice
        assert all(a >= b for a, b in itertools.pairwise(errors)), choice
