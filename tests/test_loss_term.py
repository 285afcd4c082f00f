"""Test how a teacher's term reaches the loss, whatever else the module and the Trainer do."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

import lightning_compress as lc
from lightning_compress.distillation.feature_mse import FeatureMSE
from lightning_compress.testing.toys import QUIET, PlainModule, toy_data


class Stops(Callback):
    """Fails in the first batch."""

    def on_train_batch_end(self, *_args):
        raise KeyError("stop")


class Losses(Callback):
    """Keeps the loss of each step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, *_args):
        self.seen.append(float(outputs["loss"]))


class Mixed(lc.CompressibleMixin, PlainModule):
    """Runs its network twice in a step."""

    sums = True

    def training_step(self, batch, batch_idx):
        own = super().training_step(batch, batch_idx) + super().training_step(batch, batch_idx)
        return own + self.compression_loss() if self.sums else own


def teacher() -> torch.nn.Module:
    torch.manual_seed(1)
    return PlainModule().model


def made(kind: type[PlainModule] = PlainModule) -> PlainModule:
    torch.manual_seed(0)
    return kind()


def fit(module: PlainModule, *callbacks: Callback, **settings) -> list[float]:
    losses = Losses()
    trainer = Trainer(max_epochs=1, limit_train_batches=2, callbacks=[*callbacks, losses], **QUIET, **settings)
    trainer.fit(module, toy_data(0)[0])
    return losses.seen


@pytest.mark.parametrize("kind", [PlainModule, Mixed])
def test_after_a_training_that_failed_the_next_one_is_taught_once(kind):
    terms = [lc.KnowledgeDistillation(teacher()), lc.FeatureDistillation(teacher(), ["conv1"])]
    module, fresh = made(kind), made(kind)
    fresh.load_state_dict(module.state_dict())
    with pytest.raises(KeyError, match="stop"):
        fit(module, *terms, Stops())
    module.load_state_dict(made(kind).state_dict())
    assert "training_step" not in module.__dict__
    assert fit(module, *terms) == fit(fresh, *terms)


@pytest.mark.parametrize("fails", [False, True])
def test_a_training_step_of_the_users_own_making_is_put_back(fails):
    module = made()
    own = module.training_step = lambda batch, batch_idx: PlainModule.training_step(module, batch, batch_idx)
    terms = [lc.KnowledgeDistillation(teacher()), lc.FeatureDistillation(teacher(), ["conv1"])]
    if fails:
        with pytest.raises(KeyError, match="stop"):
            fit(module, *terms, Stops())
    else:
        fit(module, *terms)
    assert module.__dict__["training_step"] is own


def test_several_calls_in_a_step_are_averaged_with_the_mixin_too():
    # Both calls see the same images with batch statistics, so the mean of both terms is the one term.
    module, twice = made(), made(Mixed)
    own, both = fit(module)[0], fit(twice, lc.KnowledgeDistillation(teacher(), weight=0.5))[0]
    once = fit(made(), lc.KnowledgeDistillation(teacher(), weight=0.5))[0]
    assert both - 2 * own == pytest.approx(once - 0.5 * own, rel=1e-4)


def test_a_step_that_ignores_its_terms_is_told_at_once():
    module = made(Mixed)
    module.sums = False
    losses = Losses()
    with pytest.raises(lc.CompressError, match=r"Mixed.training_step does not sum the loss terms \['distillation'\]"):
        fit(module, losses, lc.KnowledgeDistillation(teacher()))
    assert len(losses.seen) == 1


def test_a_step_that_is_skipped_need_not_sum_them():
    class Skips(Mixed):
        def training_step(self, batch, batch_idx):
            self(batch[0])

    module = made(Skips)
    teaches = lc.KnowledgeDistillation(teacher())
    Trainer(max_epochs=1, limit_train_batches=2, callbacks=[teaches], **QUIET).fit(module, toy_data(0)[0])
    assert module.compression_loss() == 0.0


def test_terms_must_be_listed_in_order():
    terms = [lc.FeatureDistillation(teacher(), ["conv1"]), lc.KnowledgeDistillation(teacher())]
    with pytest.raises(lc.CompressError, match="KnowledgeDistillation must be listed before FeatureDistillation; swap"):
        fit(made(), *terms)


def test_features_are_those_that_the_layer_gave_whatever_is_written_into_them_later():
    class Overwrites(torch.nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.conv, self.relu = torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(inplace)

        def forward(self, x):
            return self.relu(self.conv(x)).mean((2, 3))

    torch.manual_seed(0)
    plain = Overwrites(False)
    x, values = torch.randn(4, 1, 8, 8), []
    for inplace in (False, True):
        net, other = copy.deepcopy(plain), Overwrites(inplace)
        net.relu.inplace = inplace
        other.load_state_dict(plain.state_dict())
        with torch.no_grad():
            other.conv.weight.mul_(-1)
        term = lc.FeatureDistillation(other, ["conv"], FeatureMSE())
        handles = term.watch(net)
        values.append(term.term((x,), {}, net(x)).item())
        for handle in handles:
            handle.remove()
    assert all(one == pytest.approx(other) for one, other in pairwise(values))


class Views(PlainModule):
    """Runs its network on two views, of which the second is far from what the teacher gives."""

    own = 0.0

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = super().training_step((x, y), batch_idx) + super().training_step((-9 * x, y), batch_idx)
        self.own = loss.item()
        return loss


class MixedViews(lc.CompressibleMixin, Views):
    """Sums the terms itself."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + self.compression_loss()


@pytest.mark.parametrize(("kind", "share"), [(Views, 0.5), (MixedViews, 1.0)])
def test_the_term_in_the_log_is_the_one_in_the_loss(kind, share):
    found = []

    class Compare(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, *_args):
            in_loss = (float(outputs["loss"]) - share * pl_module.own) / 0.5
            found.append((float(trainer.callback_metrics["distillation_loss"]), in_loss))

    fit(made(kind), lc.KnowledgeDistillation(teacher()), Compare())
    assert len(found) == 2
    assert all(logged == pytest.approx(in_loss, rel=1e-3) for logged, in_loss in found)
