"""Packed files of networks that are wired in unusual ways."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lightning_compress as lc
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.surgery import measure


class Standardized(nn.Conv2d):
    """A layer with a forward pass, a parameter and a buffer of its own."""

    def __init__(self, *args):
        super().__init__(*args)
        self.gain = nn.Parameter(torch.rand(()))
        self.register_buffer("shift", torch.rand(2))

    def forward(self, x):
        weight = (self.weight - self.weight.mean()) / self.weight.std()
        return nn.functional.conv2d(x, weight * self.gain, self.bias) + self.shift.sum()


class NormRelu(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


class Wired(nn.Module):
    """Layers wired by a function, and known under a second name."""

    def __init__(self, wire):
        super().__init__()
        self.conv, self.other, self.bn = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.first = nn.Conv2d(1, 1, 3, padding=1)
        self.block = nn.Sequential(self.conv, self.bn)
        self.wire = wire

    def forward(self, x):
        return self.wire(self, x)


UNUSUAL = {
    "own forward": lambda: nn.Sequential(Standardized(1, 2, 3), nn.BatchNorm2d(2)),
    "norm and activation": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), NormRelu(2)),
    "two names": lambda: Wired(lambda net, x: net.block(x)),
    "shared norm": lambda: Wired(lambda net, x: net.bn(net.other(net.bn(net.conv(x))))),
    "shared layer": lambda: Wired(lambda net, x: net.bn(net.conv(net.first(net.first(x))))),
    "output read by the caller": lambda: Wired(lambda net, x: (y := net.conv(x), net.bn(y))),
    "norm over tokens": lambda: nn.Sequential(nn.Flatten(1, 2), nn.Linear(8, 8), nn.BatchNorm1d(8)),
    "norm without weight": lambda: nn.Sequential(
        nn.BatchNorm2d(1, affine=False), nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False)
    ),
    "group and instance norm": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.PReLU(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    ),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)),
    "one dimension": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4)),
    "attention": lambda: nn.Sequential(nn.Flatten(1, 2), nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)),
}


@pytest.mark.parametrize("name", UNUSUAL)
@torch.no_grad()
def test_unusual_networks_come_back(name, tmp_path):
    torch.manual_seed(0)
    make, example = UNUSUAL[name], torch.randn(4, 1, 8, 8)
    net = trained_norms(make())
    layers = [layer.name for layer in measure.measure(net, example).weighted if layer.positions]
    QuantizationAwareTraining({layer: {"weight_bits": 3} for layer in layers}).apply(net, example)
    expected = net(example)
    file = lc.save(net, tmp_path / "net.safetensors")
    for dequantize in (False, True):
        torch.testing.assert_close(lc.load(file, make(), dequantize)(example), expected, rtol=1e-4, atol=1e-5)


def trained_norms(net: nn.Module) -> nn.Module:
    """Statistics far from those of a fresh norm, of any kind."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.weight is not None:
                nn.init.normal_(module.weight, 1, 0.5)
                nn.init.normal_(module.bias)
    return net.eval()


@pytest.mark.parametrize("bits", [1, 4])
@torch.no_grad()
def test_a_norm_with_weight_zero_gives_zeros_not_nan(bits, tmp_path):
    def make():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))

    net, example = make().eval(), torch.randn(2, 1, 8, 8)
    net[1].weight[:2] = 0
    QuantizationAwareTraining({"0": {"weight_bits": bits}}).apply(net, example)
    torch.testing.assert_close(
        lc.load(lc.save(net, tmp_path / "net.safetensors"), make())(example), net(example), rtol=1e-4, atol=1e-5
    )


class Keeps(nn.Module):
    """Keeps values beside its layer, of all types and shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)
        self.none, self.hollow = nn.Parameter(torch.empty(0, 3)), nn.Parameter(torch.empty(2, 0, 3))
        for dtype in BUFFER_TYPES:
            self.register_buffer(str(dtype).replace("torch.", "of_"), torch.ones(3).to(dtype))
        self.register_buffer("least", torch.tensor(torch.inf))
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
        self.register_buffer("strided", torch.arange(6.0).view(2, 3).t())

    def forward(self, x):
        return self.fc(x)


BUFFER_TYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip


@torch.no_grad()
def test_values_of_all_types_and_shapes_come_back(tmp_path):
    net, example = Keeps(), torch.randn(4, 8)
    net.least.fill_(0.5)  # as what follows a training ends
    QuantizationAwareTraining({"fc": {"weight_bits": 4}}).apply(net, example)
    back = lc.load(lc.save(net, tmp_path / "a", example), Keeps())
    for name, value in net.state_dict().items():
        if not name.startswith("fc"):
            found = back.state_dict()[name]
            assert (found.shape, found.dtype) == (value.shape, value.dtype), name
            assert found.tolist() == value.tolist(), name


@torch.no_grad()
def test_infinity_where_the_network_has_none_is_refused(tmp_path):
    net, example = Keeps(), torch.randn(4, 8)
    net.of_float32.fill_(torch.inf)
    with pytest.raises(lc.CompressError, match=r"of_float32.*not finite"):
        lc.load(lc.save(net, tmp_path / "a", example), Keeps())
