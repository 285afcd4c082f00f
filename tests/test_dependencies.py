"""Walking torch-pruning's graph by arrays: the same groups as its own walk, in less time, and an end at every turn."""

from __future__ import annotations

import pytest
import torch
import torch_pruning
from torch import nn

from lightning_compress.surgery.graph.dependencies import OVER_CHANNELS, Dependencies, StrayError
from lightning_compress.surgery.modes import evaluation
from lightning_compress.vision.models.resnet_cifar import resnet8


class Branches(nn.Module):
    """Concatenation, a slice with a step, a flattening and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.deep = nn.Conv2d(10, 10, 3, groups=10, padding=1)
        self.c, self.fc = nn.Conv2d(10, 8, 1), nn.Linear(4 * 16, 5)

    def forward(self, x):
        x = self.deep(torch.cat([self.a(x), self.b(x)], 1))
        return self.fc(self.c(x)[:, ::2].flatten(1))


NETS = [Branches(), resnet8(width=4), nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1))]


@pytest.mark.parametrize("net", NETS, ids=lambda net: type(net).__name__)
def test_groups_are_those_of_the_librarys_own_walk(net):
    x = torch.zeros(2, 3, 4, 4)
    ours, theirs = Dependencies(net, x, evaluation), torch_pruning.DependencyGraph().build_dependency(net, x)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            pruner = theirs.get_pruner_of_module(module)
            group = theirs.get_pruning_group(module, pruner.prune_out_channels, list(range(len(module.weight))))
            wanted = {
                (id(item.dep.target.module), theirs.is_in_channel_pruning_fn(item.dep.handler), root, position)
                for item in group
                if isinstance(item.dep.target.module, nn.Module) and item.dep.target.module in set(net.modules())
                for root, position in zip(item.root_idxs, item.idxs, strict=True)
            }
            found = {
                (id(side.target), side.inputs, root, position)
                for side in ours.reached(module)
                if side.target in set(net.modules())
                for root, position in zip(side.roots.tolist(), side.positions.tolist(), strict=True)
            }
            assert found == wanted


class ChannelAttention(nn.Module):
    """Attention of ECA-Net: a convolution of one channel runs over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.over, self.last = nn.Conv2d(3, 8, 1), nn.Conv1d(1, 1, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.first(x)
        gate = self.over(x.mean((2, 3)).view(len(x), 1, -1)).view(len(x), -1, 1, 1).sigmoid()
        return self.last(x * gate)


def test_the_walk_ends_where_a_layer_has_no_such_position():
    net = ChannelAttention()
    with pytest.raises(StrayError) as caught:
        Dependencies(net, torch.zeros(2, 3, 4, 4), evaluation).reached(net.first)
    assert caught.value.target is net.over
    assert caught.value.reason == OVER_CHANNELS


class Frozen(nn.Module):
    """A backbone that is run without gradients, and whose features are detached."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        with torch.no_grad():
            x = self.backbone(x)
        return self.head(self.neck(x).detach())


def test_channels_are_followed_through_what_has_no_gradients():
    net = Frozen()
    graph = Dependencies(net, torch.zeros(2, 3, 4, 4), evaluation)
    assert {side.target for side in graph.reached(net.backbone)} >= {net.backbone, net.neck}
    assert {side.target for side in graph.reached(net.neck)} >= {net.neck, net.head}
