"""Branches that run in training only: what they read is removed with the rest, or kept whole with a reason."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from lightning import Trainer
from torch import nn

import lightning_compress as lc
from lightning_compress.pruning.reconstruction.asymmetric import Asymmetric
from lightning_compress.pruning.reconstruction.symmetric import Symmetric
from lightning_compress.surgery import measure
from lightning_compress.surgery.graph.trace_channels import trace_channels
from lightning_compress.testing.toys import QUIET, PlainModule, toy_data

IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Auxiliary(nn.Module):
    """A second head that runs in training only, on what ``conv`` or what ``deep`` gives."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.deep = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.aux, self.aux_norm, self.fc = nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(8, 4)
        self.aux_fc = nn.Linear(6, 4)

    def forward(self, x):
        x = self.conv(x).relu()
        deep = F.dropout(self.norm(self.deep(x)).relu().mean((2, 3)), 0.5, self.training)
        logits = self.fc(deep)
        if not self.training:
            return logits
        return logits, self.aux_fc(self.aux_norm(self.aux(x.mean((2, 3)))).relu())


class Contrastive(nn.Module):
    """Also gives its features in training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        features = self.conv(x).relu().mean((2, 3))
        return (self.fc(features), features) if self.training else self.fc(features)


class FixedShape(nn.Module):
    """Reads its features in training through a view of a fixed width."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.aux = nn.Conv2d(1, 8, 3), nn.Linear(8, 4), nn.Linear(4, 2)

    def forward(self, x):
        features = self.conv(x).relu().mean((2, 3))
        return (self.fc(features), self.aux(features.view(len(x), 2, 4))) if self.training else self.fc(features)


class TwoHeads(PlainModule):
    """Trains on all that the network gives."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.model = net

    def training_step(self, batch, batch_idx):
        first, second = self(batch[0])
        return F.cross_entropy(first, batch[1]) + 0.4 * F.cross_entropy(second, batch[1])


def test_a_head_of_training_is_pruned_along():
    net = Auxiliary()
    graph = trace_channels(net, measure.measure(net, IMAGES), IMAGES)
    assert {name: group.units for name, group in graph.groups.items()} == {"conv": 8, "deep": 8, "aux": 6}
    assert {(m.layer, m.side) for m in graph.groups["conv"].members} == {("conv", "out"), ("deep", "in"), ("aux", "in")}


class Large(Auxiliary):
    """A head of training for images above a size, as that of Inception v3."""

    def forward(self, x):
        if self.training and x.shape[-1] < 16:
            raise ValueError("the images are too small")
        return super().forward(x)


def test_an_example_that_training_mode_fails_on_is_told():
    callback = lc.ChannelPruning()
    with pytest.warns(UserWarning, match=r"fails in training mode on the example.*'aux' never ran.*can be trained on"):
        kept = callback.kept_whole(Large(), IMAGES)
    assert kept["aux"] == kept["aux_fc"] == "it never ran on the example input, on which training mode fails"
    assert lc.ChannelPruning().kept_whole(Large(), torch.rand(2, 1, 16, 16)).keys() == {"fc", "aux_fc"}


@pytest.mark.parametrize("refit", [None, Symmetric(), Asymmetric()])
def test_training_runs_after_a_head_of_training_was_pruned(refit):
    plan = {name: {"channels": 0.5} for name in ("conv", "deep", "aux")}
    module = TwoHeads(Auxiliary())
    trainer = Trainer(max_steps=2, limit_val_batches=0, callbacks=[lc.ChannelPruning(plan, refit=refit)], **QUIET)
    trainer.fit(module, toy_data(0)[0])
    assert module.model.aux.in_features == module.model.conv.out_channels == 4
    assert module.model.aux_fc.in_features == 3


@pytest.mark.parametrize(
    ("net", "reason"), [(Contrastive(), "in training mode"), (FixedShape(), "reach 'aux', which is read through")]
)
def test_what_training_needs_whole_is_kept_whole_and_told(net, reason):
    kept = lc.ChannelPruning().kept_whole(net, IMAGES)
    assert reason in kept["conv"]
    with pytest.raises(lc.CompressError, match=reason):
        lc.ChannelPruning({"conv": {"channels": 0.5}}).apply(copy.deepcopy(net), IMAGES)


def test_modes_and_statistics_of_the_traced_network_are_left_alone():
    net = Auxiliary().train()
    before = copy.deepcopy(net.state_dict())
    trace_channels(net, measure.measure(net, IMAGES), IMAGES)
    assert net.training
    assert net.norm.training
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_googlenet_is_pruned_with_its_auxiliary_heads():
    torch.manual_seed(0)
    net = torchvision.models.googlenet(num_classes=10, aux_logits=True, init_weights=False)
    images = torch.randn(2, 3, 64, 64)
    profile = measure.measure(net, images)
    callback = lc.ChannelPruning()
    choices = callback.choices(net, profile, images)
    assert "aux1.conv.conv" in {choice.layer for choice in choices}
    callback.with_plan(lc.Plan({choice.layer: {"channels": 0.5} for choice in choices})).apply(net, images)
    assert measure.measure(net, images).macs < 0.35 * profile.macs
    assert [out.shape for out in net.train()(images)] == [(2, 10)] * 3
