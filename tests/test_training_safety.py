"""Test what a training with callbacks alone is told: batch norms that do not adapt, and a loss that is no number."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning import Callback, Trainer
from torch import nn
from torchmetrics import CatMetric, SumMetric

import lightning_compress as lc
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.errors import TrialFailedError
from lightning_compress.pruning.criteria.gram import Gram
from lightning_compress.pruning.criteria.taylor import Taylor
from lightning_compress.surgery.isolated_rng import isolated_rng
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


class Watching(PlainModule):
    """Its step draws, counts, measures and averages, before the network runs and behind it."""

    compressed_network = "model"

    def __init__(self) -> None:
        super().__init__()
        self.model.stem.append(nn.InstanceNorm2d(8, affine=True, track_running_stats=True))
        self.register_buffer("center", torch.zeros(4))
        self.seen, self.losses, self.steps, self.history, self.table = SumMetric(), CatMetric(), 0, [], {}

    def training_step(self, batch):
        self.steps += 1
        self.seen(len(batch[0]))
        logits = self(batch[0] + 0.1 * torch.randn_like(batch[0]) * random.random() * np.random.rand())
        self.center = 0.9 * self.center + 0.1 * logits.detach().mean(0)
        loss = F.cross_entropy(logits, batch[1])
        self.losses(loss.detach())
        self.history.append(float(loss))
        self.table[self.steps] = float(loss)
        return loss


class Notes(Callback):
    """Notes the random numbers, and what a module has noted."""

    def setup(self, trainer, pl_module, stage):
        self.found = {
            "torch": torch.get_rng_state().tolist(),
            "python": random.getstate(),
            "numpy": np.random.get_state()[1].tolist(),
            "norm": pl_module.model.stem[-1].running_mean.tolist(),
            "center": pl_module.center.tolist(),
            "metrics": (float(pl_module.seen.sum_value), len(pl_module.losses.value), pl_module.seen.update_count),
            "counts": (pl_module.steps, list(pl_module.history), dict(pl_module.table)),
        }


SETUPS = CALLBACKS | {
    "gram": lambda: lc.ChannelPruning({"conv1": {"channels": 0.5}}, criterion=Gram()),
    "taylor": lambda: lc.ChannelPruning({"conv1": {"channels": 0.5}}, criterion=Taylor()),
    "two teachers": lambda: [lc.KnowledgeDistillation(ToyNet()), lc.FeatureDistillation(ToyNet(), ["conv1"])],
    "low rank": lambda: lc.LowRank({"fc": {"rank_out": 0.5}}),
}


@pytest.mark.parametrize("kind", SETUPS)
def test_a_setup_moves_nothing_that_the_module_counts_or_draws(kind):
    before, after = Notes(), Notes()
    made = SETUPS[kind]()
    callbacks = [before, *(made if isinstance(made, list) else [made]), after]
    Trainer(max_steps=1, limit_val_batches=0, callbacks=callbacks, **QUIET).fit(Watching(), toy_data(0)[0])
    assert after.found == before.found


def test_random_numbers_come_back_after_an_error_and_in_a_generator_that_is_closed():
    def numbers():
        with isolated_rng():
            while True:
                yield random.random(), np.random.rand(), torch.rand(1)

    states = [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]
    drawn = numbers()
    next(drawn)
    drawn.close()
    with pytest.raises(ZeroDivisionError), isolated_rng():
        raise ZeroDivisionError(str(next(numbers())))
    assert [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()] == states


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
@pytest.mark.parametrize("kind", ["channels", "taylor", "gram", "quantize", "low rank"])
def test_a_module_is_compressed_in_the_precision_that_an_earlier_training_left_it_in(kind, precision):
    module, settings = PlainModule(), {"max_steps": 1, "limit_val_batches": 0, "precision": precision, **QUIET}
    for callbacks in ([], [SETUPS[kind]()]):
        Trainer(callbacks=callbacks, **settings).fit(module.train(), toy_data(0)[0])
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16 if precision == "bf16-true" else torch.float64}
