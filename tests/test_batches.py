"""Batches as the module's steps get them: through its hooks, of several loaders, with what cannot be used named."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer

import lightning_compress as lc
from lightning_compress.pruning.criteria.gram import Gram
from lightning_compress.pruning.criteria.taylor import Taylor
from lightning_compress.pruning.reconstruction.asymmetric import Asymmetric
from lightning_compress.pruning.reconstruction.symmetric import Symmetric
from lightning_compress.testing.toys import QUIET, PlainModule, toy_data

PLAN = {"conv1": {"channels": 0.5}}
WAYS = {
    "l2": lambda: lc.ChannelPruning(PLAN),
    "taylor": lambda: lc.ChannelPruning(PLAN, criterion=Taylor()),
    "gram": lambda: lc.ChannelPruning(PLAN, criterion=Gram()),
    "symmetric": lambda: lc.ChannelPruning(PLAN, refit=Symmetric()),
    "asymmetric": lambda: lc.ChannelPruning(PLAN, refit=Asymmetric()),
    "removal": lambda: lc.LayerRemoval({"conv1": {"keep": 0}}),
    "noise": lambda: lc.VariationalDropout({"conv1": {"variational": 1}}),
}


class Bytes(PlainModule):
    """Gets bytes, and makes numbers of them where Lightning's docs say."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return (x.float() / 16 if x.dtype == torch.uint8 else x), y


class Skips(PlainModule):
    """Has no loss for the first batch."""

    def training_step(self, batch, batch_idx):
        return None if batch_idx == 0 else super().training_step(batch, batch_idx)


class Several(PlainModule):
    """Trains on two loaders."""

    def training_step(self, batch, batch_idx):
        batches = batch.values() if isinstance(batch, dict) else batch
        return sum(F.cross_entropy(self(x), y) for x, y in batches)


class Batches:
    """A loader; a list would be several loaders to Lightning."""

    def __init__(self, change=lambda x: x):
        self.held = [(change(x), y) for x, y in toy_data(0)[0]]

    def __iter__(self):
        return iter(self.held)

    def __len__(self):
        return len(self.held)


def fit(module, loader, callback) -> None:
    Trainer(max_epochs=1, limit_train_batches=2, callbacks=[callback], **QUIET).fit(module, loader)


@pytest.mark.parametrize("way", WAYS)
def test_what_hooks_make_of_a_batch_counts(way):
    fit(Bytes(), Batches(lambda x: (x * 16).clamp(0, 255).to(torch.uint8)), WAYS[way]())


@pytest.mark.parametrize("way", WAYS)
def test_batches_that_a_module_skips_are_skipped(way):
    fit(Skips(), Batches(), WAYS[way]())


@pytest.mark.parametrize("both", [lambda a, b: [a, b], lambda a, b: {"a": a, "b": b}], ids=["list", "dict"])
@pytest.mark.parametrize("way", WAYS)
def test_several_loaders_give_a_batch_each(way, both):
    fit(Several(), both(toy_data(0)[0], toy_data(1)[0]), WAYS[way]())


@pytest.mark.parametrize("way", ["gram", "symmetric", "asymmetric", "removal"])
def test_inputs_that_are_not_finite_are_named(way):
    with pytest.raises(lc.CompressError, match="the inputs of train batch 0 are not finite"):
        fit(PlainModule(), Batches(lambda x: torch.full_like(x, torch.nan)), WAYS[way]())


@pytest.mark.parametrize("way", ["gram", "symmetric", "asymmetric", "removal"])
def test_weights_that_are_not_finite_are_named(way):
    module = PlainModule()
    with torch.no_grad():
        module.model.stem[0].weight[0] = torch.nan
    with pytest.raises(lc.CompressError, match="not finite; check"):
        fit(module, Batches(), WAYS[way]())


def test_gradients_of_a_module_that_optimizes_by_hand_are_not_known():
    module = PlainModule()
    module.automatic_optimization = False
    with pytest.raises(lc.CompressError, match=r"PlainModule optimizes manually, .* take a criterion without"):
        fit(module, Batches(), WAYS["taylor"]())
