"""Networks traced without values where they run so, and with values where they do not: the groups are the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_compress.surgery import measure
from lightning_compress.surgery.copies import sharing
from lightning_compress.surgery.graph import trace_channels as module
from lightning_compress.surgery.graph.trace_channels import trace_channels
from lightning_compress.surgery.without_values import without_values

IMAGES = torch.randn(2, 3, 8, 8)
NORMS = [
    nn.BatchNorm2d(8),
    nn.BatchNorm2d(8, affine=False),
    nn.GroupNorm(1, 8),
    nn.LayerNorm([8, 8, 8]),
    nn.Hardswish(),
]


class Looks(nn.Module):
    """Chooses a layer by the values of its input, makes a tensor on the CPU, or does neither."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at, self.grid = at, torch.ones(8, 8)  # no buffer
        self.first, self.second, self.other = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        x = self.first(x)
        if self.at == "values" and x.isnan().any():
            return self.other(x.mean((2, 3)))
        if self.at == "device":
            x = x * torch.full((8, 8), 2.0)
        return self.second((x * self.grid).mean((2, 3)))


@pytest.mark.parametrize("at", ["", "values", "device"])
def test_groups_are_those_of_a_network_that_looks_at_nothing(at):
    net = Looks(at)
    graph = trace_channels(net, measure.measure(net, IMAGES), IMAGES)
    assert {name: group.units for name, group in graph.groups.items()} == {"first": 8}
    assert graph.kept_whole["second"] == "its output channels are the output of the network"
    assert graph.kept_whole["other"] == "it never ran on the example input"


def test_only_a_network_that_looks_at_values_is_traced_with_them(monkeypatch):
    devices = []

    def followable(net):
        devices.append(next(net.parameters()).device.type)
        return sharing(net).requires_grad_(True)

    monkeypatch.setattr(module, "_followable", followable)
    for at in ("", "values"):
        net = Looks(at)
        trace_channels(net, measure.measure(net, IMAGES), IMAGES)
    assert list(dict.fromkeys(devices)) == ["meta", "cpu"]


@pytest.mark.parametrize("layer", [*NORMS, nn.Hardswish()], ids=repr)
def test_shapes_and_their_errors_are_those_of_the_network(layer):
    made = without_values(nn.Sequential(layer))
    assert made(torch.empty(2, 8, 8, 8, device="meta")).shape == (2, 8, 8, 8)
    if not isinstance(layer, nn.Hardswish):
        for net, device in ((made, "meta"), (layer, "cpu")):
            with pytest.raises((ValueError, RuntimeError)):
                net(torch.empty(2, 4, 8, 8, device=device))


class Calls(nn.Module):
    """Calls functions of torch with eight channels of its own, beside layers that torch does not define."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.scale, self.mean = name, nn.Parameter(torch.ones(8)), nn.Buffer(torch.zeros(8))
        self.weight = nn.Parameter(torch.ones(5, 8))

    def forward(self, x):
        if self.name == "batch_norm":
            return F.batch_norm(x, self.mean, self.mean + 1, self.scale, self.scale, training=self.training)
        if self.name == "layer_norm":
            return F.layer_norm(x.movedim(1, -1), (8,), self.scale, bias=self.scale)
        if self.name == "linear":
            return F.linear(x.movedim(1, -1), self.weight, bias=self.weight[:, 0])
        given = {"size": (5, 7)} if self.name == "size" else {"scale_factor": 1.5}
        return F.interpolate(x, **given, mode="bilinear", align_corners=True, antialias=True)


@pytest.mark.parametrize("name", ["batch_norm", "layer_norm", "linear", "size", "scale"])
def test_shapes_of_functions_are_those_of_torch(name):
    net, x = Calls(name), torch.rand(2, 8, 4, 6)
    made = without_values(net)
    assert made(x.to("meta")).shape == net(x).shape
    if name in ("batch_norm", "layer_norm", "linear"):
        for each, device in ((made, "meta"), (net, "cpu")):
            with pytest.raises((ValueError, RuntimeError)):
                each(torch.rand(2, 4, 4, 6, device=device))
    if name == "batch_norm":
        for each, device in ((made, "meta"), (net, "cpu")):
            with pytest.raises(ValueError, match="channel"):
                each(torch.rand(1, 8, 1, 1, device=device))


def test_a_sharing_copy_has_the_parameters_and_buffers_of_its_own():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    made = sharing(net)
    assert made[0].weight is net[0].weight
    assert made[1].running_mean is not net[1].running_mean
    made[0] = nn.Identity()
    assert isinstance(net[0], nn.Conv2d)
