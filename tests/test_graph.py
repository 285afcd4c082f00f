"""Removing channels for real equals masking them, on the networks that people have."""

from __future__ import annotations

import copy
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import torchvision
from torch import nn

import lightning_compress as lc
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.costs.activation_bytes import ActivationBytes
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.surgery import measure
from lightning_compress.surgery.graph.channels import OUT, ChannelGraph
from lightning_compress.surgery.graph.trace_channels import trace_channels
from lightning_compress.surgery.structure import load_structure, save_structure

NETWORKS = {  # name -> arguments; 64 pixels where the network takes them
    "resnet18": {}, "resnet50": {}, "vgg16_bn": {}, "mobilenet_v2": {}, "densenet121": {}, "efficientnet_b0": {},
    "convnext_tiny": {}, "regnet_y_400mf": {}, "shufflenet_v2_x0_5": {},
    "googlenet": {"aux_logits": False, "init_weights": False}, "alexnet": {}, "squeezenet1_1": {},
    "swin_t": {}, "vit_b_32": {"image_size": 64},
}  # fmt: skip


def random_statistics(net: nn.Module) -> nn.Module:
    """Batch norms as after training: with fresh ones (mean 0, shift 0) many mistakes do not show."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            if module.running_mean is not None:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.1)
    return net.eval()


def mask_by_hooks(net: nn.Module, graph: ChannelGraph, keep: dict[str, torch.Tensor]) -> nn.Module:
    """Zero the removed channels of every producer's output in the forward pass; norms too, since they shift zeros.

    A layer norm is one over the kept channels: that is what masking means there.
    """
    net = copy.deepcopy(net)
    lost: dict[str, torch.Tensor] = {}
    for name, kept in keep.items():
        group = graph.groups[name]
        dropped = torch.ones(group.units, dtype=torch.bool)
        dropped[kept] = False
        for member in group.members:
            if member.side == OUT:
                found = member.index[dropped].flatten()
                lost[member.layer] = torch.cat([lost[member.layer], found]) if member.layer in lost else found
                if member.layer not in dict(net.named_modules()):  # of a parameter: also what is added to a stream
                    net.get_parameter(member.layer).data.index_fill_(member.dim, found, 0)
    for layer, channels in lost.items():

        def zero(module, args, output, channels=channels):
            dim = output.dim() - 1 if isinstance(module, nn.Linear) else 1
            if isinstance(module, nn.LayerNorm):
                dim = 1 if output.shape[1] == len(module.weight) else output.dim() - 1
                output = over_kept(module, args[0].movedim(dim, -1), channels).movedim(-1, dim)
            return output.index_fill(dim, channels, 0)

        if layer in dict(net.named_modules()):
            module = net.get_submodule(layer)
            module.register_forward_hook(zero)
            zero_rows(module, channels)
    return net


def zero_rows(module: nn.Module, channels: torch.Tensor) -> None:
    """Zero rows of a linear layer too, which may be one that is not called, as Swin's qkv."""
    if isinstance(module, nn.Linear):
        for parameter in module.parameters():
            parameter.data.index_fill_(0, channels, 0)


def over_kept(norm: nn.LayerNorm, x: torch.Tensor, lost: torch.Tensor) -> torch.Tensor:
    """Return the layer norm whose mean and variance are those of the channels that stay."""
    kept = torch.ones(x.shape[-1], dtype=x.dtype).index_fill(0, lost, 0)
    mean = (x * kept).sum(-1, keepdim=True) / kept.sum()
    variance = ((x - mean).square() * kept).sum(-1, keepdim=True) / kept.sum()
    return (x - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias


@pytest.mark.parametrize("name", NETWORKS)
def test_removing_equals_masking_and_prediction(name):
    torch.manual_seed(0)
    net = getattr(torchvision.models, name)(num_classes=10, **NETWORKS[name])
    check_removal(random_statistics(net), torch.randn(2, 3, 64, 64))


def given_back(thin: nn.Module, dense: nn.Module, example: torch.Tensor) -> tuple[nn.Module, nn.Module]:
    """Return what a checkpoint and a file of a thin network make of the dense one."""
    checkpoint = {"state_dict": thin.state_dict()}
    save_structure(thin, checkpoint)
    resumed = copy.deepcopy(dense)
    load_structure(resumed, checkpoint)
    resumed.load_state_dict(checkpoint["state_dict"])
    with TemporaryDirectory() as folder:
        lc.save(thin, path := Path(folder) / "a.safetensors", example_input=example)
        return resumed, lc.load(path, dense)


def check_removal(net: nn.Module, example: torch.Tensor) -> ChannelGraph:
    """Prune all groups by random ratios: outputs as when masked, profile as predicted, and no layer unexplained."""
    dense = measure.measure(net, example)
    callback = ChannelPruning()
    ratios = {c.layer: {c.knob: float(0.1 + 0.8 * torch.rand(()))} for c in callback.choices(net, dense, example)}
    plan = callback.resolve(Plan(ratios), net, dense, example)
    graph = trace_channels(net, dense, example)
    thin = copy.deepcopy(net)
    callback.with_plan(plan).apply(thin, example)
    measured = measure.measure(thin, example)
    predicted, memory = callback.predict(plan, dense), ActivationBytes()
    assert predicted == measured
    assert memory(predicted) == memory(measured) <= memory(dense)
    assert measured.macs < dense.macs
    assert min(min(layer.in_channels, layer.out_channels) for layer in measured) >= 1
    keep = {n: kept_units(graph, net, n, ratio, callback) for n, r in plan.layers.items() for ratio in r.values()}
    with torch.no_grad():
        masked, example = mask_by_hooks(net, graph, keep).double(), example.double()
        expected, found = masked(example), thin.double()(example)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    explained = graph.kept_whole.keys() | {m.layer for g in graph.groups.values() for m in g.producers}
    assert {layer.name for layer in dense.weighted} <= explained
    return graph


def kept_units(graph, net, name, ratio, callback) -> torch.Tensor:
    scores = callback.criterion(graph.groups[name], net)
    best = sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))
    return torch.tensor(sorted(best[: round(ratio * len(scores))]))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.a(x)
        return self.c(x + self.b(x.relu()))


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(10, 2, 1)

    def forward(self, x):
        return self.c(torch.cat([self.a(x), self.b(x)], 1).relu())


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 24, 3, groups=4), nn.Conv2d(24, 2, 1)

    def forward(self, x):
        return self.c(self.b(self.a(x).relu()).relu())


class Flatten(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.fc = nn.Conv2d(3, 5, 1), nn.Linear(5 * 16, 3)

    def forward(self, x):
        return self.fc(self.a(x).relu().flatten(1))


class HardView(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(64, 3)

    def forward(self, x):
        return self.fc(self.b(self.a(x).relu()).relu().view(-1, 64))


@pytest.mark.parametrize(("net", "groups"), [
    (Residual(), {"a": 8}), (Concat(), {"a": 6, "b": 4}), (Grouped(), {"a": 3, "b": 6}), (Flatten(), {"a": 5}),
])  # fmt: skip
def test_groups_and_units_of_each_coupling(net, groups):
    example = torch.randn(2, 3, 4, 4)
    graph = trace_channels(net, measure.measure(net, example), example)
    assert {name: group.units for name, group in graph.groups.items()} == groups


def test_a_view_with_a_fixed_size_keeps_its_layer_whole_and_says_why():
    net, example = HardView(), torch.randn(2, 3, 4, 4)
    graph = trace_channels(net, measure.measure(net, example), example)
    assert set(graph.groups) == {"a"}
    assert "b" in graph.kept_whole
    plan = Plan({"b": {"channels": 0.5}})
    with pytest.raises(CompressError, match="layer 'b' cannot be pruned"):
        ChannelPruning(plan).apply(net, example)


def test_tracing_leaves_the_network_as_it_was():
    net, example = Residual().train(), torch.randn(2, 3, 4, 4)
    net.a.weight.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    trace_channels(net, measure.measure(net, example), example)
    assert net.training
    assert not net.a.weight.requires_grad
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
