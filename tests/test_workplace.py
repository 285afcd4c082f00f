"""Networks are changed, and candidates scored, on the device that the user trains on."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer

from lightning_compress import trace
from lightning_compress.run import Run
from lightning_compress.testing.toys import PlainModule, ToyData
from lightning_compress.workplace import workplace

EXAMPLE = torch.zeros(2, 1, 8, 8)


@pytest.mark.parametrize(("trains", "changed"), [("cpu", "cpu"), ("cuda:1", "cuda:1"), ("mps", "cpu")])
def test_networks_are_changed_where_they_are_trained_if_that_has_float64(trains, changed):
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(trains)))
    assert workplace(trainer) == torch.device(changed)


@pytest.mark.parametrize(("trains", "accelerator"), [("cpu", "cpu"), ("cuda", "auto"), ("mps", "auto")])
def test_candidates_are_scored_on_the_cpu_only_if_the_user_trains_there(tmp_path, trains, accelerator):
    def make(**settings) -> SimpleNamespace:
        return SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(trains)))

    module = PlainModule()
    run = Run(ToyData(), module, trace.measure(module.model, EXAMPLE), EXAMPLE, make, tmp_path, 0, None)
    assert run.accelerator == accelerator


def test_a_real_trainer_says_where(tmp_path):
    module = PlainModule()
    make = partial(Trainer, accelerator="cpu")
    run = Run(ToyData(), module, trace.measure(module.model, EXAMPLE), EXAMPLE, make, tmp_path, 0, None)
    assert (run.device, run.accelerator) == (torch.device("cpu"), "cpu")
