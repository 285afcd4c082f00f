"""Checkpoints: read again whatever a module's hyperparameters are, without running code; damaged ones are refused."""

from __future__ import annotations

import enum
import functools
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf
from torch import nn

from lightning_compress.core.errors import CompressError
from lightning_compress.pipeline.checkpoint import load_checkpoint
from lightning_compress.pipeline.training import FINAL, LAST, fit
from lightning_compress.testing.toys import PlainModule, ToyData


class Color(enum.Enum):
    RED = 1


def run(text: str) -> None:
    """Fail: this must not be called."""
    raise AssertionError(text)


class Code:
    """Runs code when its pickle is opened."""

    def __reduce__(self):
        return run, ("a pickle ran code",)


VALUES = {
    "path": Path("a/b"),
    "partial": functools.partial(torch.optim.SGD, lr=0.1),
    "config": OmegaConf.create({"a": [1, {"b": 2}]}),
    "numpy scalar": np.float32(0.1),
    "array": np.arange(3),
    "enum": Color.RED,
    "module": nn.Sequential(nn.Linear(2, 2), nn.ReLU()),
    "class": torch.optim.AdamW,
    "lambda's place": dict,
    "set": {1, 2},
}


class Hyper(PlainModule):
    """A user's module with a hyperparameter."""

    def __init__(self, value=None) -> None:
        super().__init__()
        self.save_hyperparameters()


class Stop(Callback):
    """Ends the process's training after the first epoch, as a kill would."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise RuntimeError("killed")


class State(Callback):
    """Has a state of any kind."""

    def __init__(self, value) -> None:
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state_dict):
        self.value = state_dict["value"]


def trained(folder: Path, module, epochs: int = 2, callbacks=()):
    make_trainer = partial(Trainer, accelerator="cpu", enable_progress_bar=False)
    return fit(module, ToyData(), make_trainer, folder=folder, epochs=epochs, seed=0, callbacks=callbacks)


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a finished training, and what it trained."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("whole")
    return folder, trained(folder, Hyper())


@pytest.mark.parametrize("kind", VALUES)
def test_a_training_is_resumed_and_read_again_whatever_its_hyperparameters_are(kind, whole, tmp_path):
    def module():
        torch.manual_seed(0)
        return Hyper(VALUES[kind])

    with pytest.raises(RuntimeError, match="killed"):
        trained(tmp_path, module(), callbacks=[Stop()])
    assert (tmp_path / LAST).is_file()
    resumed = trained(tmp_path, module())
    assert same(resumed, whole[1])
    assert same(trained(tmp_path, module()), resumed)  # from its final.ckpt
    assert torch.load(tmp_path / FINAL, weights_only=True).keys() >= {"state_dict"}


@pytest.mark.parametrize("value", [*VALUES.values(), Code()], ids=[*VALUES, "code"])
def test_a_checkpoint_of_the_user_s_loads_whatever_it_holds_beside(value, tmp_path):
    module = Hyper()
    content = {"state_dict": module.state_dict(), "hyper_parameters": {"value": value}, "other": value}
    torch.save(content, tmp_path / "a.ckpt")
    assert same(load_checkpoint(Hyper(), tmp_path / "a.ckpt"), module)


@pytest.mark.parametrize("value", [Path("a"), np.float64(0.5), np.arange(3), torch.ones(2), {"a": [1, (2, "b")]}])
def test_states_of_plain_values_are_resumed(value, tmp_path):
    with pytest.raises(RuntimeError, match="killed"):
        trained(tmp_path, Hyper(), callbacks=[Stop(), State(value)])
    resumed = State(None)
    trained(tmp_path, Hyper(), callbacks=[resumed])
    assert repr(resumed.value) == repr(value)


def test_a_state_that_could_not_be_read_again_is_refused_by_name(tmp_path):
    with pytest.raises(CompressError, match=r"holds values of .*test_checkpoint\.Color, which cannot be read"):
        trained(tmp_path, Hyper(), callbacks=[State(Color.RED)])
    assert not list(tmp_path.glob("*.ckpt"))


@pytest.mark.parametrize("flips", [1, 64])
def test_flipped_bits_of_a_finished_training_are_never_used(flips, whole, tmp_path):
    content, rng = (whole[0] / FINAL).read_bytes(), random.Random(flips)
    for _ in range(60):
        broken = bytearray(content)
        for at in rng.sample(range(8 * len(content)), flips):
            broken[at // 8] ^= 1 << (at % 8)
        (tmp_path / FINAL).write_bytes(broken)
        with pytest.raises(CompressError, match=r"final\.ckpt' is damaged: .* Delete it, and the same command"):
            trained(tmp_path, Hyper())


@pytest.mark.parametrize("name", [FINAL, LAST])
@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_empty_and_truncated_checkpoints_are_refused(name, share, whole, tmp_path):
    content = (whole[0] / FINAL).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(CompressError, match=f"{name}' is damaged"):
        trained(tmp_path, Hyper())
    with pytest.raises(CompressError, match=f"{name}' is damaged"):
        load_checkpoint(Hyper(), tmp_path / name)


def test_a_checkpoint_of_someone_else_in_the_place_of_ours_is_refused(tmp_path):
    torch.save({"state_dict": Hyper().state_dict()}, tmp_path / FINAL)
    with pytest.raises(CompressError, match="it has no digest of this package"):
        trained(tmp_path, Hyper())


def test_flipped_bits_of_a_user_s_weights_are_seen(tmp_path):
    module = Hyper()
    torch.save(module.state_dict(), tmp_path / "a.pt")
    content = bytearray((tmp_path / "a.pt").read_bytes())
    content[content.index(module.model.conv1.weight.detach().numpy().tobytes())] ^= 1
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CompressError, match="has another checksum"):
        load_checkpoint(Hyper(), tmp_path / "a.pt")
