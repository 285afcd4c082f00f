"""Layers whose forward pass writes into their weight are refused by name where that would be lost."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.errors import CompressError
from lightning_compress.surgery.weight_writes import layers_that_write

EXAMPLE = torch.zeros(2, 3, 8, 8)


class MaxNorm(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=0.3)
        return super().forward(x)


class Masked(nn.Conv2d):
    """The weight is masked already when it runs: no value changes."""

    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self.register_buffer("mask", torch.ones_like(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


class NonNegative(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.clamp_(min=0)
        return super().forward(x)


class Replaced(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        self.weight = nn.Parameter(self.weight.abs())
        return super().forward(x)


class Harmless(nn.Conv2d):
    """Standardizes its weight on the way, and writes into a buffer and into its output."""

    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias).add_(1)


class Parent(nn.Module):
    """Writes into the weight of its child."""

    def __init__(self) -> None:
        super().__init__()
        self.child = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.child.weight.data.clamp_(-1, 1)
        return self.child(x)


def network(first: nn.Module) -> nn.Sequential:
    return nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(288, 4))


KINDS = [MaxNorm, Masked, NonNegative, Replaced]
CALLBACKS = [
    lambda name: QuantizationAwareTraining({name: {"weight_bits": 8}}),
    lambda name: WeightPruning({name: {"density": 0.5}}),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", CALLBACKS)
def test_they_are_refused_by_name(kind, make):
    with pytest.raises(CompressError, match=rf"layer '0' \({kind.__name__}\) writes into its weight"):
        make("0").apply(network(kind(3, 8, 3)), EXAMPLE)


@pytest.mark.parametrize("make", CALLBACKS)
def test_writes_by_another_module_count(make):
    with pytest.raises(CompressError, match=r"layer '0.child' \(Conv2d\)"):
        make("0.child").apply(network(Parent()), EXAMPLE)


@pytest.mark.parametrize("make", CALLBACKS)
def test_other_layers_and_layers_that_only_read_are_not(make):
    make("4").apply(network(MaxNorm(3, 8, 3)), EXAMPLE)
    make("0").apply(network(Harmless(3, 8, 3)), EXAMPLE)


def test_what_replaces_no_weight_keeps_the_constraint():
    net = network(MaxNorm(3, 8, 3))
    ChannelPruning({"0": {"channels": 0.5}}).apply(net, EXAMPLE)
    net(EXAMPLE)
    assert net[0].weight.shape[0] == 4
    assert net[0].weight.flatten(1).norm(dim=1).max() <= 0.3 + 1e-5


def test_copies_share_what_was_found():
    net = network(MaxNorm(3, 8, 3))
    assert layers_that_write(net, EXAMPLE) == ["0"]
    assert layers_that_write(copy.deepcopy(net), None) == ["0"]
