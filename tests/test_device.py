"""Networks are changed, and candidates scored, on the device that the user trains on."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer

from lightning_compress.callbacks.base.device import surgery_device, trains_on
from lightning_compress.pipeline.context import RunContext
from lightning_compress.surgery import measure
from lightning_compress.testing.toys import PlainModule, ToyData

EXAMPLE = torch.zeros(2, 1, 8, 8)


@pytest.mark.parametrize(("trains", "changed"), [("cpu", "cpu"), ("cuda:1", "cuda:1"), ("mps", "cpu")])
def test_networks_are_changed_where_they_are_trained_if_that_has_float64(trains, changed):
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(trains)))
    assert surgery_device(trainer) == torch.device(changed)


@pytest.mark.parametrize("trains", ["cpu", "cuda:1", "mps"])
def test_candidates_are_scored_on_the_device_that_the_user_trains_on(tmp_path, trains):
    def make(**settings) -> SimpleNamespace:
        return SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(trains)))

    module = PlainModule()
    run = RunContext(ToyData(), module, measure.measure(module.model, EXAMPLE), EXAMPLE, make, tmp_path, 0)
    assert run.scoring_device == torch.device(trains)


@pytest.mark.parametrize(
    ("trains", "there", "settings"),
    [
        ("cpu", 2, {"accelerator": "cpu", "devices": 1}),
        ("cuda:1", 2, {"accelerator": "auto", "devices": [1]}),
        ("mps", 1, {"accelerator": "auto", "devices": [0]}),
        ("cuda:1", 1, {"accelerator": "auto", "devices": 1}),  # a worker that reserved one of them
        ("cuda:0", 0, {"accelerator": "auto", "devices": 1}),  # or none
    ],
)
def test_a_trainer_for_one_device_or_for_what_a_worker_has_in_its_place(monkeypatch, trains, there, settings):
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: there)
    assert trains_on(torch.device(trains)) == settings


def test_a_real_trainer_says_where(tmp_path):
    module = PlainModule()
    make = partial(Trainer, accelerator="cpu")
    run = RunContext(ToyData(), module, measure.measure(module.model, EXAMPLE), EXAMPLE, make, tmp_path, 0)
    assert run.device == run.scoring_device == torch.device("cpu")
    assert Trainer(**trains_on(run.device), logger=False).strategy.root_device == torch.device("cpu")
