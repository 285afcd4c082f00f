"""Test what of a training the user's trainer says: how long it is, what it shows, and which callbacks it has."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar, RichProgressBar, TQDMProgressBar

from lightning_compress.core.errors import CompressError
from lightning_compress.pipeline.training import FINAL, fit
from lightning_compress.testing.toys import PlainModule, ToyData


@pytest.mark.parametrize(("epochs", "steps", "users", "taken"), [
    (2, None, {}, "2 epochs"), (-1, 3, {}, 3), (-1, 0, {}, 0), (5, None, {"max_steps": 2}, 2),
    (-1, 3, {"limit_train_batches": 2}, 3),
])  # fmt: skip
def test_a_training_is_as_long_as_it_should_be(tmp_path, epochs, steps, users, taken):
    data = ToyData()
    fit(
        PlainModule(),
        data,
        partial(Trainer, accelerator="cpu", **users),
        folder=tmp_path,
        epochs=epochs,
        seed=0,
        steps=steps,
    )
    found = torch.load(tmp_path / FINAL, weights_only=True)["global_step"]
    assert found == (2 * len(data.train_dataloader()) if taken == "2 epochs" else taken)


def test_a_finished_training_is_loaded_not_repeated(tmp_path):
    make_trainer = partial(Trainer, accelerator="cpu")
    first = fit(PlainModule(), ToyData(), make_trainer, folder=tmp_path, epochs=1, seed=0)
    again = fit(PlainModule(), ToyData(), make_trainer, folder=tmp_path, epochs=7, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


class Counts(Callback):
    """Counts the epochs that it has seen, and where a copy of it was made."""

    copies: ClassVar[list[Counts]] = []

    def __init__(self) -> None:
        self.epochs = 0

    def __deepcopy__(self, memo):
        self.copies.append(Counts())
        return self.copies[-1]

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs += 1


@pytest.mark.parametrize("as_list", [True, False])
def test_every_training_has_its_own_of_the_user_s_callbacks(tmp_path, monkeypatch, as_list):
    monkeypatch.setattr(Counts, "copies", [])
    given = Counts()
    make_trainer = partial(Trainer, accelerator="cpu", callbacks=[given] if as_list else given)
    for name in ("one", "two"):
        fit(PlainModule(), ToyData(), make_trainer, folder=tmp_path / name, epochs=2, seed=0)
    assert given.epochs == 0
    assert [each.epochs for each in given.copies] == [2, 2]


@pytest.mark.parametrize("users", [
    {}, {"enable_progress_bar": False}, {"callbacks": [TQDMProgressBar()]}, {"callbacks": [RichProgressBar()]},
    {"enable_checkpointing": False}, {"callbacks": [ModelCheckpoint()]},
])  # fmt: skip
def test_the_user_says_which_bar_is_shown_and_what_else_is_kept(tmp_path, monkeypatch, users):
    bars = []
    monkeypatch.setattr(
        PlainModule, "on_train_start", lambda self: bars.append(type(self.trainer.progress_bar_callback))
    )
    fit(PlainModule(), ToyData(), partial(Trainer, accelerator="cpu", **users), folder=tmp_path, epochs=1, seed=0)
    asked = [type(c) for c in users.get("callbacks", []) if isinstance(c, ProgressBar)]
    default = type(Trainer(accelerator="cpu", logger=False).progress_bar_callback)
    assert bars == (asked or [type(None) if users.get("enable_progress_bar") is False else default])


def test_a_trainer_without_checkpoints_is_refused_before_any_training(tmp_path):
    with pytest.raises(CompressError, match="barebones=True allows neither checkpoints nor logs"):
        fit(PlainModule(), ToyData(), partial(Trainer, barebones=True), folder=tmp_path / "fit", epochs=1, seed=0)
    assert not (tmp_path / "fit").exists()
