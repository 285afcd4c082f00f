"""Networks completed from data: rounding moves the mean of no channel, and what was trained stays as it is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.errors import CompressError
from lightning_compress.export.integer.completion import complete
from lightning_compress.export.integer.emulate import emulate, to_values
from lightning_compress.export.integer.graph import AveragePool, Requantize
from lightning_compress.export.integer.lower import lower
from lightning_compress.export.integer.rounding.floating import FloatRounding
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


class Pooled(nn.Module):
    """Two maps that are averaged for a layer that is declared first; another layer reads one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 5)
        self.stem, self.relu, self.again = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3)
        self.pools = nn.ModuleList([nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(1)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        return self.fc(torch.cat([self.pools[0](x), self.pools[1](self.again(x))], 1).flatten(1))


def test_what_is_averaged_for_a_layer_is_not_clipped_to_its_grid():
    torch.manual_seed(0)
    net, x = Pooled().eval(), torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    net.stem.weight.data *= 4  # values far from their mean
    plan = {layer.name: {"weight_bits": 8, "act_bits": 8} for layer in measure.measure(net, x[:2]).weighted}
    QuantizationAwareTraining(plan).apply(net, x)
    net(x)
    with torch.no_grad():
        expected = net(x)
    graph = lower(complete(net, [x]), x)
    pools = [operation for operation in graph.operations if isinstance(operation, AveragePool)]
    assert len(pools) == 2
    assert any(isinstance(operation, Requantize) for operation in graph.operations)
    packed = {name: getattr(net, name).input_transform.packed() for name in ("again", "fc")}
    for name, (number, signed) in packed.items():
        grid = graph.grid(next(op for op in graph.weighted if op.module == name).inputs[0])
        assert (grid.scale, grid.low < 0) == (pytest.approx(float(number)), bool(signed))
    found = to_values(emulate(graph, x, FloatRounding()), graph.grid(graph.output))
    slope = float((found * expected).sum() / (expected * expected).sum())
    assert slope == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("calibration", "sentence"), [
    (X, "calibration is one tensor; pass a list of batches"),
    ([torch.zeros(2, 5, 8, 8)], r"does not run on the example, of shape \(2, 5, 8, 8\)"),
    ([X, torch.zeros(2, 3, 8)], r"does not run on the example, of shape \(2, 3, 8\)"),
    (["x"], "does not run on the example, which holds no tensor"),
    ([X, X / 0], "a calibration batch gives values in the network that are not finite"),
])  # fmt: skip
def test_batches_that_say_nothing_are_refused(calibration, sentence):
    with pytest.raises(CompressError, match=sentence):
        complete(network(), calibration)


class DenseBlock(nn.Module):
    """Norms and activations before convolutions, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(12, 5, 3)
        self.deep = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
        self.norm = nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.norm(torch.cat([x, self.deep(x)], 1)).relu()).flatten(1)


def conv(*behind: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), *behind)


NORMS = {  # network -> how many kernels with a weight it has
    "first": (lambda: nn.Sequential(nn.BatchNorm2d(3), conv()), 2),
    "behind an activation": (lambda: conv(nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 3)), 3),
    "behind a pooling": (lambda: conv(nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(8)), 2),
    "dense": (DenseBlock, 5),
    "folded": (lambda: conv(nn.Dropout(), nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.ReLU()), 1),
    "folded into a linear layer": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.BatchNorm1d(5)), 1),
}


@pytest.mark.parametrize("name", NORMS)
@torch.no_grad()
def test_norms_that_stand_alone_read_a_grid(name):
    torch.manual_seed(0)
    make, kernels = NORMS[name]
    net = make()
    for _ in range(3):
        net(X)
    expected = net.eval()(X)
    graph = lower(complete(net, [X]), X)
    found = to_values(emulate(graph, X, FloatRounding()), graph.grid(graph.output)).view(expected.shape)
    assert graph.integer
    assert len(graph.weighted) == kernels
    assert float((found - expected).norm() / expected.norm()) < 0.03
