"""Two processes that train on different data end with the same network: Lightning's ``strategy="ddp"``, on the CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning import Trainer

from lightning_compress.callbacks.base.compatibility import check_gradients
from lightning_compress.callbacks.joint import JointSparsityQuantization
from lightning_compress.callbacks.log_normal_dropout import LogNormalDropout
from lightning_compress.callbacks.variational_dropout import VariationalDropout
from lightning_compress.core.errors import CompressError
from lightning_compress.export.load import load
from lightning_compress.testing.toys import QUIET, PlainModule

TRAIN = """
import copy, sys
import torch
import lightning_compress as lc
from lightning import Trainer, seed_everything
from lightning_compress.quantization.quantizers.codebook import Codebook
from lightning_compress.pruning.schedules.cubic import Cubic
from lightning_compress.callbacks.rate_quantization import RateQuantization
from lightning_compress.testing.toys import QUIET, PlainModule, ToyData, toy_data

class DataOfRank(ToyData):
    def train_dataloader(self):
        return toy_data(self.trainer.global_rank)[0]

torch.set_num_threads(1)
seed_everything(0, verbose=False)
module = PlainModule()
bits = {{layer: {{"weight_bits": 4, "act_bits": 8}} for layer in ("stem.0", "conv2", "fc")}}
callbacks = {callbacks}
trainer = Trainer(**QUIET, max_epochs={epochs}, devices=2, strategy={strategy!r}, callbacks=callbacks)
trainer.fit(module, datamodule=DataOfRank())
torch.save(module.state_dict(), f"{folder}/{{trainer.global_rank}}.pt")
if trainer.is_global_zero:
    lc.save(module, "{folder}/small.safetensors", example_input=torch.zeros(2, 1, 8, 8))
"""
ALWAYS_TRAINED = """[
    lc.ChannelPruning({"conv1": {"channels": 0.5}}), lc.WeightPruning({"conv2": {"density": 0.5}}),
    lc.KnowledgeDistillation(copy.deepcopy(module)), lc.QuantizationAwareTraining(bits),
]"""
RESTING = """[
    lc.LogNormalDropout({"conv1": {"log_normal": 1}}), lc.VariationalDropout({"conv2": {"variational": 1}}),
]"""
CODEBOOKS = """[
    lc.WeightPruning({"conv2": {"density": 0.5}}),
    lc.QuantizationAwareTraining(bits, weight_quantizer=Codebook),
]"""
CODEBOOKS_THAT_WAIT = """[
    lc.WeightPruning({"conv2": {"density": 0.5}}, schedule=Cubic(0, 0.5), every=1),
    lc.QuantizationAwareTraining(bits, weight_quantizer=Codebook),
]"""
JOINT = """[lc.JointSparsityQuantization({"conv1": {"joint": 1}, "conv2": {"joint": 1}})]"""


CASES = {
    "structure, masks, teacher, bits": (ALWAYS_TRAINED, "ddp", 3),
    "noise": (RESTING, "ddp_find_unused_parameters_true", 3),
    "joint": (JOINT, "ddp_find_unused_parameters_true", 3),
    "codebooks": (CODEBOOKS, "ddp", 3),
    "codebooks that wait": (CODEBOOKS_THAT_WAIT, "ddp_find_unused_parameters_true", 3),
    "bits without training": ("[lc.QuantizationAwareTraining(bits)]", "ddp", 0),
    "rates without training": ('[RateQuantization({"conv2": {"coded_bits": 3}})]', "ddp", 0),
}


@pytest.mark.parametrize(("callbacks", "strategy", "epochs"), CASES.values(), ids=CASES)
def test_both_processes_end_with_the_same_network(callbacks, strategy, epochs, tmp_path):
    script = tmp_path / "train.py"  # Lightning starts it a second time
    script.write_text(TRAIN.format(callbacks=callbacks, strategy=strategy, folder=tmp_path, epochs=epochs))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr[-3000:]
    mine, other = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert mine.keys() == other.keys()
    own = {"running_mean", "running_var"} if epochs else set()  # of the data of each process, as always in DDP
    assert all(torch.equal(mine[key], other[key]) for key in mine if key.rpartition(".")[2] not in own)
    assert load(tmp_path / "small.safetensors", PlainModule()).model.fc.weight.isfinite().all()


RESTS = {
    "variational": lambda: VariationalDropout({"conv2": {"variational": 1}}),
    "log normal": lambda: LogNormalDropout({"conv1": {"log_normal": 1}}),
    "joint": lambda: JointSparsityQuantization({"conv2": {"joint": 1}}),
}


@pytest.mark.parametrize("kind", RESTS)
def test_parameters_that_rest_are_refused_where_each_must_have_a_gradient(kind):
    trainer = Trainer(**QUIET, max_epochs=1, strategy="ddp", devices=1)
    with pytest.raises(CompressError, match="ddp_find_unused_parameters_true"):
        RESTS[kind]().setup(trainer, PlainModule(), "fit")


def test_noise_that_never_rests_and_a_strategy_that_looks_are_taken():
    to_the_end = VariationalDropout({"conv2": {"variational": 1}}, end=1.0)
    for strategy, callback in (("ddp", to_the_end), ("ddp_find_unused_parameters_true", RESTS["joint"]())):
        trainer = Trainer(**QUIET, max_epochs=1, strategy=strategy, devices=1)
        check_gradients(callback, trainer, callback.rests)
