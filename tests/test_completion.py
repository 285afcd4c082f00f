"""Networks completed from data: rounding moves the mean of no channel, and what was trained stays as it is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.export.integer.completion import complete
from lightning_compress.quantization.placements.tensors import Tensors
from lightning_compress.surgery import measure

X = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    """Return a network with a batch norm of running statistics, biases, and a transposed convolution."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
    net = nn.Sequential(*first, nn.Conv2d(8, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, 2), nn.Flatten())
    net.append(nn.Linear(6 * 12 * 12, 5))
    for _ in range(3):
        net(X)
    return net.eval()


def means(net: nn.Module, name: str) -> Tensor:
    """Return the mean of each channel of a layer's output."""
    found = []
    handle = net.get_submodule(name).register_forward_hook(lambda _m, _a, y: found.append(y))
    with torch.no_grad():
        net(X)
    handle.remove()
    return found[0].movedim(1, 0).flatten(1).mean(1)


@pytest.mark.parametrize("name", ["1", "3", "5"])
def test_no_mean_of_a_channel_moves(name):
    net = network()
    expected = means(net, name)
    found = means(complete(net, [X[:32], X[32:]], bits=3), name)
    spread = float(expected.std())
    assert float((found - expected).abs().max()) < 0.1 * spread


def test_nothing_is_corrected_where_grids_were_trained():
    net = network()
    plan = {layer.name: {"weight_bits": 3, "act_bits": 4} for layer in measure.measure(net, X[:2]).quantizable}
    QuantizationAwareTraining(plan, placement=Tensors()).apply(net, X[:2])
    net(X)
    before = copy.deepcopy(net.state_dict())
    after = complete(net, [X]).state_dict()  # only the output gets another grid
    for name in ("1.running_mean", "3.bias", "5.bias"):
        torch.testing.assert_close(after[name], before[name])
