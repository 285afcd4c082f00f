"""Before a score, batch norms see what training_step makes of train batches, whatever these are."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.evaluator import Evaluator
from lightning_compress.pipeline.recalibration import TrainingForward, recalibrate
from lightning_compress.testing.toys import PlainModule, ToyNet, toy_data

EXAMPLE, PLAN = torch.zeros(2, 1, 8, 8), Plan({"conv1": {"channels": 0.5}})


class Loaders(PlainModule):
    """Trains on labelled and unlabelled data, two views of each; validates on plain pairs."""

    def training_step(self, batch, batch_idx):
        (x, y), (more, _) = batch["labelled"], batch["more"]
        return F.cross_entropy(self(x), y) + (self(more) - self(more.flip(-1))).square().mean()


class Manual(PlainModule):
    """Optimizes by hand."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = F.cross_entropy(self(batch[0]), batch[1])
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class ReadsItsTrainer(PlainModule):
    """Asks for what only a training has."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss


class Gathers(PlainModule):
    """Gathers what its validation steps give, as Lightning 2 asks for, and needs one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.right: list[torch.Tensor] = []

    def validation_step(self, batch, batch_idx):
        self.right.append((self(batch[0]).argmax(1) == batch[1]).float())

    def on_validation_epoch_end(self):
        self.log("val_acc", torch.cat(self.right).mean())
        self.right.clear()


class TwoHeads(ToyNet):
    """Has a head that runs in training only, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(8, 4)

    def forward(self, x):
        x = F.dropout(self.stem(x), 0.9, self.training)
        logits = self.fc(self.pool(x).flatten(1))
        return (logits, self.aux(x.mean((2, 3)))) if self.training else logits


class Heads(PlainModule):
    """Trains both heads."""

    def __init__(self) -> None:
        super().__init__()
        self.model = TwoHeads()

    def training_step(self, batch, batch_idx):
        logits, aux = self(batch[0])
        return F.cross_entropy(logits, batch[1]) + F.cross_entropy(aux, batch[1])


def evaluator(kind: type[PlainModule], train) -> Evaluator:
    torch.manual_seed(0)
    module = kind()
    composition = Composition([ChannelPruning()], module.model, EXAMPLE)
    validation = toy_data(0)[1]
    return Evaluator(partial(copy.deepcopy, module), composition, train, validation=validation, costs=[MACs()])


def recalibrated(evaluate: Evaluator) -> PlainModule:
    module = evaluate.make_module()
    evaluate._recalibrate(module)
    return module


def test_several_loaders_with_views_are_searched_over():
    evaluate = evaluator(Loaders, {"labelled": toy_data(0)[0], "more": toy_data(1)[0]})
    assert evaluate(PLAN).metrics["val_acc"] >= 0
    module = recalibrated(evaluate)
    assert int(module.model.stem[1].num_batches_tracked) == 3 * len(evaluate.recalibration)


@pytest.mark.parametrize("kind", [Manual, ReadsItsTrainer])
def test_a_step_that_needs_its_training_still_shows_what_the_network_gets(kind):
    module = recalibrated(evaluator(kind, toy_data(0)[0]))
    plain = recalibrated(evaluator(PlainModule, toy_data(0)[0]))
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(module.get_buffer(name), buffer)
    assert not any(part.training for part in module.modules())


def test_hooks_of_a_validation_run_where_the_module_is_validated_alone():
    evaluate = evaluator(Gathers, toy_data(0)[0])
    score, plain = evaluate(PLAN), evaluator(PlainModule, toy_data(0)[0])(PLAN)
    assert score.metrics["val_acc"] == pytest.approx(plain.metrics["val_acc"])
    assert "on_validation_epoch_end" not in vars(recalibrated(evaluate))


def test_heads_of_training_run_and_dropout_does_not():
    evaluate = evaluator(Heads, toy_data(0)[0])
    first, second = recalibrated(evaluate), recalibrated(evaluate)
    assert torch.equal(first.model.stem[1].running_mean, second.model.stem[1].running_mean)
    assert "validation_step" not in first.__dict__


class WithoutValidation(LightningModule):
    """Has not what Lightning asks of a module that is validated."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ToyNet()


def test_a_pass_that_does_not_begin_raises_its_own_error():
    trainer = Trainer(logger=False, enable_checkpointing=False, callbacks=[TrainingForward()])
    with pytest.raises(MisconfigurationException, match="validation_step"):
        recalibrate(WithoutValidation(), toy_data(0)[0], trainer)
