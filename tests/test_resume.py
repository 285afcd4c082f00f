"""Kill -9 in the middle of a training with all callbacks on, and go on: the same tensors in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

TRAIN = """
import sys, torch
sys.path.insert(0, {tests!r})
torch.set_num_threads(1)
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from test_callbacks import everything, fresh, toy_data
folder, last = {folder!r}, {folder!r} + "/last.ckpt"
module = fresh()
callbacks = everything(module)
seed_everything(2, verbose=False)
saving = ModelCheckpoint(folder, filename="last", save_top_k=1, enable_version_counter=False)
trainer = Trainer(max_epochs=4, callbacks=[*callbacks, saving], logger=False, enable_progress_bar=False,
                  enable_model_summary=False, accelerator="cpu")
import os
trainer.fit(module, *toy_data(0), ckpt_path=last if os.path.exists(last) else None)
torch.save(module.state_dict(), folder + "/end.pt")
"""


def start(folder: Path) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    code = TRAIN.format(tests=str(Path(__file__).parent), folder=str(folder))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_killed_training_goes_on_tensor_for_tensor(tmp_path):
    assert start(tmp_path / "whole").wait() == 0
    killed = start(tmp_path / "killed")
    while killed.poll() is None and not (tmp_path / "killed" / "last.ckpt").exists():
        pass
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "end.pt").exists()
    assert start(tmp_path / "killed").wait() == 0
    whole, resumed = (torch.load(tmp_path / name / "end.pt") for name in ("whole", "killed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
