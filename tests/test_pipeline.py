"""What a run says of itself: the searches of this run alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar

from lightning_compress import compare
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.cost import MACs
from lightning_compress.errors import CompressError
from lightning_compress.pipeline import Result, compress
from lightning_compress.plan import Plan
from lightning_compress.search.objective import AccuracyUnderBudget
from lightning_compress.search.random import Random
from lightning_compress.stage import Stage
from lightning_compress.summary import search_of
from lightning_compress.testing.toys import PlainModule, ToyData

SECTION = {
    "objective": {"_target_": "lightning_compress.search.objective.AccuracyUnderBudget"},
    "cost": {"_target_": "lightning_compress.cost.MACs"},
}
PLAN = Plan({"conv1": {"channels": 0.5}})


class Tested(PlainModule):
    """With a test."""

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("test_acc", (self(x).argmax(1) == y).float().mean())


class TestedData(ToyData):
    """With test data."""

    def test_dataloader(self):
        return self.val_dataloader()


def searching() -> Stage:
    return Stage(
        {"channels": ChannelPruning()}, MACs(), 0.7, Random, objective=AccuracyUnderBudget(), trials=2, epochs=0
    )


def uniform() -> Stage:
    return Stage({"channels": ChannelPruning()}, uniform={"channels": 0.5}, epochs=0)


def run(folder: Path, plan: Plan | None = None, trainer: Mapping[str, Any] = MappingProxyType({}), **stages) -> Result:
    torch.manual_seed(0)
    make_trainer = partial(Trainer, accelerator="cpu", **trainer)
    return compress(Tested(), TestedData(), stages, folder, make_trainer, plan=plan)


@pytest.mark.parametrize(
    "after", [{"plan": PLAN, "prune": searching()}, {"prune": uniform()}, {"prune": Stage(epochs=0)}]
)
def test_a_search_of_an_earlier_run_in_the_folder_is_not_said_to_be_of_this_one(tmp_path, after):
    assert run(tmp_path, prune=searching()).searches["prune"]["searcher"] == "Random"
    assert search_of("prune", tmp_path / "prune", SECTION) is not None
    assert compare.read_run(tmp_path)["searches"].keys() == {"prune"}
    assert run(tmp_path, **after).searches == compare.read_run(tmp_path)["searches"] == {}
    assert search_of("prune", tmp_path / "prune", SECTION) is None


def test_a_search_of_a_stage_that_is_gone_is_not_said_to_be_of_this_run(tmp_path):
    run(tmp_path, prune=searching())
    run(tmp_path, other=uniform())
    assert compare.read_run(tmp_path)["searches"] == {}


def test_a_search_that_is_repeated_says_the_same_again(tmp_path):
    found = [run(tmp_path, prune=searching()).searches for _ in range(2)]
    assert found[0] == found[1] != {}


@pytest.mark.parametrize(
    "trainer", [{"enable_progress_bar": False}, {"callbacks": [TQDMProgressBar(), ModelCheckpoint()]}]
)
def test_a_run_shows_and_keeps_what_the_user_s_trainer_says(tmp_path, trainer):
    assert run(tmp_path, trainer=trainer, prune=searching()).compressed.accuracy > 0


def test_a_trainer_that_no_training_can_have_is_refused_at_once(tmp_path):
    with pytest.raises(CompressError, match="barebones=True"):
        run(tmp_path / "run", trainer={"barebones": True}, prune=searching())
    assert not (tmp_path / "run").exists()
