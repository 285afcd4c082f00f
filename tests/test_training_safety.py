"""Test what a training with callbacks alone is told: batch norms that do not adapt, and a loss that is no number."""

from __future__ import annotations

import warnings

import pytest
from lightning import Trainer

import lightning_compress as lc
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.errors import TrialFailedError
from lightning_compress.testing.toys import QUIET, PlainModule, ToyNet, toy_data


class Diverges(PlainModule):
    """Its loss is not finite from the second step on."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (float("nan") if batch_idx else 1.0)


CALLBACKS = {
    "quantize": lambda: QuantizationAwareTraining({"conv1": {"weight_bits": 8, "act_bits": 8}}),
    "prune": lambda: WeightPruning({"conv1": {"density": 0.5}}),
    "joint": lambda: lc.JointSparsityQuantization({"conv1": {"joint": 1}}),
    "channels": lambda: lc.ChannelPruning({"conv1": {"channels": 0.5}}),
    "distill": lambda: lc.KnowledgeDistillation(ToyNet()),
}


@pytest.mark.parametrize("kind", CALLBACKS)
def test_callbacks_stop_at_a_loss_that_is_not_finite(kind):
    trainer = Trainer(max_epochs=1, callbacks=[CALLBACKS[kind]()], limit_val_batches=0, **QUIET)
    with pytest.raises(TrialFailedError, match="training loss became nan at step"):
        trainer.fit(Diverges(), toy_data(0)[0])
    assert trainer.global_step == 2


def said(module: PlainModule) -> list[str]:
    callbacks = [CALLBACKS["prune"](), CALLBACKS["quantize"]()]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Trainer(max_epochs=0, callbacks=callbacks, **QUIET).fit(module, toy_data(0)[0])
    return [str(w.message) for w in caught if "eval mode" in str(w.message) and "batch norms" in str(w.message)]


def test_a_network_left_in_eval_mode_is_told_once_with_its_norms():
    module = PlainModule()
    module.model.eval()
    (text,) = said(module)
    assert "its 3 batch norms" in text


def test_norms_frozen_on_purpose_and_training_mode_are_no_matter():
    assert said(PlainModule()) == []
    module = PlainModule()
    module.model.bn1.eval()
    assert said(module) == []
