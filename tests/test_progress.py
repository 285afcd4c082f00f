"""How far a training is: the share of all its steps, whatever its Trainer accumulates; if it has any; and its end."""

from __future__ import annotations

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler, ModelCheckpoint

from lightning_compress.callbacks.base.progress import share_done, steps_done, trains_nothing
from lightning_compress.callbacks.joint import JointSparsityQuantization
from lightning_compress.callbacks.rate_quantization import RateQuantization
from lightning_compress.callbacks.variational_dropout import VariationalDropout
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.pruning.schedules.cubic import Cubic
from lightning_compress.surgery.structure import structure_of
from lightning_compress.testing.toys import QUIET, PlainModule, toy_data

JOINT = {"conv1": {"joint": 1}, "conv2": {"joint": 1}}
RATE = {"conv1": {"coded_bits": 2}, "conv2": {"coded_bits": 2}}


class Note(Callback):
    """Notes the steps and the share of the training that are done, before each batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, *_args):
        self.seen.append((steps_done(trainer), share_done(trainer)))


@pytest.mark.parametrize("schedule", [{0: 4, 1: 1}, {0: 1, 2: 3}, {1: 2}], ids=["falls", "rises", "begins late"])
@pytest.mark.parametrize("settings", [{}, {"max_steps": 9}], ids=["epochs", "steps"])
def test_a_share_is_of_all_steps_whatever_is_accumulated_when(schedule, settings):
    note = Note()
    trainer = Trainer(**QUIET, max_epochs=4, callbacks=[note, GradientAccumulationScheduler(schedule)], **settings)
    trainer.fit(PlainModule(), toy_data(0)[0])
    assert note.seen == [(step, step / trainer.global_step) for step, _ in note.seen]


class Ask(Callback):
    """Notes what is said when the fit starts, and the batches that come."""

    def __init__(self):
        self.said, self.batches = [], []

    def on_fit_start(self, trainer, pl_module):
        self.said.append(trains_nothing(trainer))
        self.batches.append(0)

    def on_train_batch_start(self, *_args):
        self.batches[-1] += 1


@pytest.mark.parametrize("settings", [
    {"max_epochs": 0}, {"max_epochs": 1, "max_steps": 0}, {"max_epochs": 1, "limit_train_batches": 0},
    {"max_epochs": 1, "limit_train_batches": 0.0}, {"max_epochs": 1}, {"max_epochs": -1, "max_steps": 3},
    {"max_epochs": 1, "fast_dev_run": True},
], ids=str)  # fmt: skip
def test_a_training_without_a_step_is_known_before_it_begins(settings):
    ask = Ask()
    trainer = Trainer(**QUIET, callbacks=[ask], **settings)
    for _ in range(2):  # the second module finds a Trainer at its end
        trainer.fit(PlainModule(), toy_data(0)[0])
    assert ask.said == [count == 0 for count in ask.batches]


@pytest.mark.parametrize("make", [
    lambda: JointSparsityQuantization(JOINT, limits=(0.1,)), lambda: RateQuantization(RATE),
], ids=["joint", "rate"])  # fmt: skip
def test_a_module_for_a_trainer_at_its_end_is_compressed_as_without_training(make):
    def compressed(trainer) -> dict[str, tuple[float, int]]:
        module = PlainModule()
        trainer.fit(module, toy_data(0)[0])
        profile = structure_of(module.model).profile
        return {layer: (profile[layer].density, profile[layer].weight_bits) for layer in ("conv1", "conv2")}

    used = Trainer(**QUIET, max_epochs=1, callbacks=[make()])
    compressed(used)
    for trainer in (used, Trainer(**QUIET, max_epochs=1, limit_train_batches=0, callbacks=[make()])):
        assert all(density < 1 or bits < 8 for density, bits in compressed(trainer).values())


TO_THE_END = {
    "pruning": lambda: WeightPruning({"conv1": {"density": 0.3}}, schedule=Cubic(end=1.0), every=3),
    "noise": lambda: VariationalDropout({"conv1": {"variational": 1}}, end=1.0),
    "joint": lambda: JointSparsityQuantization(JOINT, limits=(0.1,), end=1.0),
    "rate": lambda: RateQuantization(RATE),
}


@pytest.mark.parametrize("kind", TO_THE_END)
@pytest.mark.parametrize("settings", [{"max_epochs": 2}, {"max_steps": 12}], ids=["epochs", "steps"])
def test_the_last_checkpoint_is_finished_where_a_schedule_lasts_to_the_end(kind, settings, tmp_path):
    trainer = Trainer(**{**QUIET, "enable_checkpointing": True}, **settings,
                      callbacks=[TO_THE_END[kind](), ModelCheckpoint(tmp_path, save_last=True)])  # fmt: skip
    module = PlainModule()
    trainer.fit(module, *toy_data(0))
    state = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
