"""Where parts are removed and no training follows, batch norms get the statistics of what is left."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_compress as lc
from lightning_compress.callbacks.base.norm_statistics import BATCHES
from lightning_compress.testing.toys import QUIET, PlainModule

BATCH = 16
REMOVAL = {
    "layers": lc.LayerRemoval({"conv1": {"keep": 0}}),
    "channels": lc.ChannelPruning({"conv1": {"channels": 0.5}}),
    "ranks": lc.LowRank({"conv1": {"rank_in": 0.5, "rank_out": 0.5}}),
    "weights": lc.WeightPruning({"conv1": {"density": 0.3}}),
}


def images(batches: int = BATCHES + 2) -> torch.Tensor:
    return torch.randn(batches * BATCH, 1, 8, 8, generator=torch.Generator().manual_seed(1)) + 0.5


def fitted(module, callbacks, x=None, **settings):
    x = images() if x is None else x
    loader = DataLoader(TensorDataset(x, torch.arange(len(x)) % 4), BATCH)
    trainer = Trainer(max_epochs=0, callbacks=callbacks, **QUIET)
    trainer.fit(module, loader, **settings)
    return trainer


def averages(net, x) -> dict[str, torch.Tensor]:
    """Mean over batches of each norm's own batch means, from a copy whose norms use the statistics of a batch."""
    net, found = copy.deepcopy(net).train(), {}
    norms = {name: module for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for name, norm in norms.items():
        norm.register_forward_pre_hook(
            lambda _, args, name=name: found.setdefault(name, []).append(args[0].mean((0, 2, 3)))
        )
    with torch.no_grad():
        for batch in x.split(BATCH):
            net(batch)
    return {name: torch.stack(means).mean(0) for name, means in found.items()}


@pytest.mark.parametrize("callback", REMOVAL.values(), ids=REMOVAL)
def test_statistics_are_averages_over_train_batches(callback):
    torch.manual_seed(0)
    module = PlainModule()
    fitted(module, [callback])
    expected = averages(module.model, images()[: BATCHES * BATCH])
    assert expected
    for name, mean in expected.items():
        norm = module.model.get_submodule(name)
        torch.testing.assert_close(norm.running_mean, mean)
        assert norm.momentum == 0.1
    assert module.training


def test_a_training_that_follows_begins_with_the_old_statistics():
    torch.manual_seed(0)
    module = PlainModule()
    Trainer(max_steps=1, max_epochs=1, callbacks=[REMOVAL["channels"]], **QUIET).fit(
        module, DataLoader(TensorDataset(images(1), torch.zeros(BATCH).long()), BATCH)
    )
    assert int(module.model.bn1.num_batches_tracked) == 1


def test_what_a_checkpoint_restores_stays(tmp_path):
    torch.manual_seed(0)
    before, fresh = PlainModule(), PlainModule()
    fitted(before, [REMOVAL["channels"]]).save_checkpoint(tmp_path / "a.ckpt")
    fitted(fresh, [REMOVAL["channels"]], x=images() + 3, ckpt_path=tmp_path / "a.ckpt")
    torch.testing.assert_close(fresh.model.bn1.running_mean, before.model.bn1.running_mean)


def test_quantization_alone_leaves_statistics_to_its_correction_of_biases():
    torch.manual_seed(0)
    module = PlainModule()
    fitted(module, [lc.QuantizationAwareTraining({"conv1": {"weight_bits": 8}})])
    assert int(module.model.bn1.num_batches_tracked) == 0


def test_batches_without_samples_leave_the_statistics():
    torch.manual_seed(0)
    module = PlainModule()
    module.example_input_array = torch.zeros(2, 1, 8, 8)
    Trainer(max_epochs=0, limit_train_batches=0, callbacks=[REMOVAL["channels"]], **QUIET).fit(
        module, DataLoader(TensorDataset(images(0), torch.zeros(0).long()), BATCH)
    )
    torch.testing.assert_close(module.model.bn1.running_var, torch.ones(8))
    assert int(module.model.bn1.num_batches_tracked) == 0
