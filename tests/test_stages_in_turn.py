"""One stage after the other on the same network: what the second one wrote loads into what the first one left."""

from __future__ import annotations

import copy
from itertools import combinations, product

import pytest
import torch
from lightning import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from test_callbacks import MAKERS, SINGLE, TEACHING

from lightning_compress.pipeline.checkpoint import load_checkpoint
from lightning_compress.surgery.structure import network, structure_of
from lightning_compress.testing.callbacks import assert_equal_states, fitted, trainer
from lightning_compress.testing.toys import toy_data

NOISE = ("log_normal_dropout", "information_dropout")
STRUCTURE = ("layer_removal", "channel_pruning", "low_rank")
PAIRS = [*combinations([kind for kind in SINGLE if kind not in TEACHING], 2), *product(NOISE, STRUCTURE)]


@pytest.fixture(scope="module")
def left():
    """Kind -> the network after a stage of it."""
    made = {}

    def after(kind):
        if kind not in made:
            made[kind] = fitted(MAKERS[kind], 1)
        return copy.deepcopy(made[kind])

    return after


def second(module, kind: str, epochs: int, folder, ckpt=None):
    seed_everything(3, verbose=False)
    saving = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    run = trainer(epochs, [SINGLE[kind](module), saving], enable_checkpointing=True)
    run.fit(module, *toy_data(0), ckpt_path=ckpt)
    return module


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_the_second_stage_loads_and_resumes(left, one, other, tmp_path):
    whole = second(left(one), other, 2, tmp_path)
    loaded = load_checkpoint(left(one), tmp_path / "epoch=1.ckpt")
    assert_equal_states(whole.state_dict(), loaded.state_dict())
    assert structure_of(network(loaded)) == structure_of(network(whole))
    x = next(iter(toy_data(0)[1]))[0]
    assert torch.equal(whole.eval()(x), loaded.eval()(x))
    resumed = second(left(one), other, 2, tmp_path, tmp_path / "epoch=0.ckpt")
    assert_equal_states(whole.state_dict(), resumed.state_dict())
