"""The channel-pruning callback: rounding, globs, errors, gradients, optimizers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer
from torch import nn

from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.errors import CompressError, NoEffectError
from lightning_compress.core.plan import Plan
from lightning_compress.pruning.criteria.taylor import Taylor
from lightning_compress.surgery import measure
from lightning_compress.testing.toys import QUIET, PlainModule, ToyNet, toy_data

EXAMPLE = torch.zeros(2, 1, 8, 8)
NET = ToyNet()
DENSE = measure.measure(NET, EXAMPLE)


@given(ratio=st.floats(0.001, 1), round_to=st.sampled_from([1, 2, 3, 4, 8, 100]))
def test_kept_channels_are_rounded_up_to_the_multiple_and_stay_so(ratio, round_to):
    callback = ChannelPruning(round_to=round_to)
    plan = callback.resolve(Plan({"conv1": {"channels": ratio}}), NET, DENSE, EXAMPLE)
    kept = callback.predict(plan, DENSE)["conv1"].out_channels
    assert kept == DENSE["conv1"].out_channels or kept % round_to == 0
    assert kept >= max(1, round(ratio * DENSE["conv1"].out_channels))
    assert callback.resolve(plan, NET, DENSE, EXAMPLE) == plan


def test_choices_lie_on_the_grid_and_end_at_one():
    (choice,) = [c for c in ChannelPruning(round_to=4, lowest=0.2).choices(NET, DENSE, EXAMPLE) if c.layer == "conv1"]
    assert choice.values == (0.25, 0.5, 0.75, 1.0)


def test_ignored_layers_are_no_choice_and_a_reason():
    callback = ChannelPruning(ignore=["conv*"])
    assert "conv1" not in {c.layer for c in callback.choices(NET, DENSE, EXAMPLE)}
    assert callback.kept_whole(NET, EXAMPLE)["conv1"] == "it is ignored"


def test_a_glob_that_matches_nothing_is_an_error():
    with pytest.raises(NoEffectError, match=r"'layer9\.\*' matches no layer"):
        ChannelPruning(ignore=["layer9.*"]).choices(NET, DENSE, EXAMPLE)


def test_the_first_layer_can_be_kept():
    assert "stem.0" in {c.layer for c in ChannelPruning().choices(NET, DENSE, EXAMPLE)}
    assert "stem.0" not in {c.layer for c in ChannelPruning(keep_first=True).choices(NET, DENSE, EXAMPLE)}


@pytest.mark.parametrize(("plan", "message"), [
    ({"conv2": {"channels": 0.5}}, "coupled with those of 'stem.0'; name 'stem.0' instead"),
    ({"fc": {"channels": 0.5}}, "'fc' cannot be pruned: its output channels are the output"),
    ({"pool": {"channels": 0.5}}, "'pool' has no channels to remove"),
    ({"conv1": {"channels": 0.0}}, "must be above 0 and at most 1, got 0.0"),
    ({"conv1": {"channels": 1.5}}, "must be above 0 and at most 1, got 1.5"),
])  # fmt: skip
def test_what_cannot_be_pruned_is_named(plan, message):
    with pytest.raises(CompressError, match=message):
        ChannelPruning(plan).apply(ToyNet(), EXAMPLE)


def test_round_to_below_one_is_refused():
    with pytest.raises(CompressError, match="round_to must be 1 or more, got 0"):
        ChannelPruning(round_to=0)


class AdamW(PlainModule):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())


class OneCycle(PlainModule):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)
        steps = int(self.trainer.estimated_stepping_batches)
        return [optimizer], [
            {"scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps), "interval": "step"}
        ]


@pytest.mark.parametrize("cls", [PlainModule, AdamW, OneCycle])
@pytest.mark.parametrize("criterion", [None, Taylor()], ids=["l2", "taylor"])
def test_the_optimizer_holds_the_thin_parameters(cls, criterion):
    module = cls()
    plan = {"conv1": {"channels": 0.5}, "stem.0": {"channels": 0.25}}
    trainer = Trainer(max_epochs=1, callbacks=[ChannelPruning(plan, criterion)], **QUIET)
    trainer.fit(module, *toy_data(0))
    assert module.model.conv1.weight.shape[:2] == (8, 2)
    held = {id(p) for g in trainer.optimizers[0].param_groups for p in g["params"]}
    assert held == {id(p) for p in module.parameters()}


def test_taylor_keeps_the_channels_whose_removal_changes_the_loss_most():
    torch.manual_seed(0)
    module = PlainModule()
    plan = {"conv1": {"channels": 0.5}}
    callback = ChannelPruning(plan, Taylor(), batches=2)
    weight = module.model.conv1.weight.detach().clone()
    grad = torch.zeros_like(weight)
    module.model.train()
    for norm in (module.model.stem[1], module.model.bn1, module.model.bn2):
        norm.eval()
    for batch, _ in zip(toy_data(0)[0], range(2), strict=False):
        grad += torch.autograd.grad(module.training_step(batch, 0), module.model.conv1.weight)[0]
    expected = (weight * grad).sum((1, 2, 3)).square().topk(8).indices.sort().values
    Trainer(max_steps=0, callbacks=[callback], **QUIET).fit(module, *toy_data(0))
    assert torch.equal(module.model.conv1.weight, weight[expected])


def test_taylor_says_that_a_frozen_layer_is_to_be_unfrozen():
    module = PlainModule()
    module.model.conv1.weight.requires_grad_(False)
    trainer = Trainer(max_steps=0, callbacks=[ChannelPruning({"conv1": {"channels": 0.5}}, Taylor())], **QUIET)
    with pytest.raises(CompressError, match="weight of layer 'conv1' is frozen, so it has no gradient; unfreeze it"):
        trainer.fit(module, *toy_data(0))


class Recurrent(nn.Module):
    """Two linear layers, a recurrent one, and two more."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.first, self.second, self.cell = nn.Linear(6, 16), nn.Linear(16, 16), kind(16, 8, batch_first=True)
        self.third, self.last = nn.Linear(8, 12), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.third(self.cell(self.second(self.first(x).relu()))[0][:, -1]).relu())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_channels_that_a_recurrent_layer_reads_stay(kind):
    net, x = Recurrent(kind), torch.randn(2, 5, 6)
    assert set(ChannelPruning().kept_whole(net, x)) == {"second", "last"}
    ChannelPruning({"first": {"channels": 0.5}, "third": {"channels": 0.5}}).apply(net, x)
    assert (net.first.out_features, net.second.in_features, net.third.out_features) == (8, 8, 6)
    assert net(x).shape == (2, 4)
