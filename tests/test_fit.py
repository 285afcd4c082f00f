"""How long a training is: its epochs, its steps, or what the user's trainer says."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from lightning import Trainer

from lightning_compress.fit import FINAL, fit
from lightning_compress.testing.toys import PlainModule, ToyData


@pytest.mark.parametrize(("epochs", "steps", "users", "taken"), [
    (2, None, {}, "2 epochs"), (-1, 3, {}, 3), (-1, 0, {}, 0), (5, None, {"max_steps": 2}, 2),
    (-1, 3, {"limit_train_batches": 2}, 3),
])  # fmt: skip
def test_a_training_is_as_long_as_it_should_be(tmp_path, epochs, steps, users, taken):
    data = ToyData()
    fit(PlainModule(), data, partial(Trainer, accelerator="cpu", **users), tmp_path, epochs, 0, steps=steps)
    found = torch.load(tmp_path / FINAL, weights_only=True)["global_step"]
    assert found == (2 * len(data.train_dataloader()) if taken == "2 epochs" else taken)


def test_a_finished_training_is_loaded_not_repeated(tmp_path):
    make_trainer = partial(Trainer, accelerator="cpu")
    first = fit(PlainModule(), ToyData(), make_trainer, tmp_path, 1, 0)
    again = fit(PlainModule(), ToyData(), make_trainer, tmp_path, 7, 3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
