"""kill -9 in the layer by layer stage, again and again: it ends with the same tensors, and measures nothing twice.

Each run is a forked child that kills itself at a random moment: before or after an evaluation, between two instructions
of SQLite while its score is being written, in a step of a training, before an operation on a file of the run, or in the
middle of writing one; until one gets to the end. The system's temporary folder is taken to be on another disk, as it
often is: from there, files are not moved but copied.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
import tempfile
import traceback
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch
from lightning import Trainer

from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.evaluator import Evaluator
from lightning_compress.pipeline.layerwise import LayerwiseStage
from lightning_compress.pipeline.planners.sensitivity import Sensitivity
from lightning_compress.pipeline.training import FINAL
from lightning_compress.search.journal import Journal, read
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.sensitivity import JOURNAL
from lightning_compress.testing.toys import PlainModule, ToyData

VALUES, EPOCHS = 2, 2  # 5 evaluations, and 3 trainings of 2 epochs of 8 steps
MEASURING = {"before": 2, "after": 2, "writing": 40}  # moments while sensitivities are measured, and how many there are
TRAINING = {"step": 20, "file": 24, "copy": 4}  # to choose from; the later ones are in the training after the next
LEAST = 8  # kills until the end


def finish(folder: Path) -> None:
    torch.manual_seed(0)
    run = RunContext.begun(PlainModule(), ToyData(), folder, make_trainer=partial(Trainer, accelerator="cpu"))
    planner = Sensitivity(cost=MACs(), budget=0.2, objective=AccuracyUnderBudget(), values=VALUES)
    stage = LayerwiseStage({"channels": ChannelPruning()}, planner, steps_between=EPOCHS, epochs=EPOCHS)
    stage.run("prune", run.dense, run)


class Death:
    """Comes at moment number ``left`` of its kind; hooks into everything in this process, which is a child."""

    def __init__(self, moment: str, left: int, folder: Path) -> None:
        self.moment, self.left, self.folder = moment, left, folder
        evaluate, append, rename = Evaluator.__call__, Journal.append, os.rename
        training_step = PlainModule.training_step

        def evaluating(evaluator: Evaluator, plan: Plan):
            with (folder / "evaluations").open("a") as file:
                file.write(f"{evaluator.key(plan)}\n")
            self.comes("before")
            score = evaluate(evaluator, plan)
            self.comes("after")
            return score

        def writing(journal: Journal, entry):
            journal._db.set_progress_handler(lambda: self.comes("writing"), 1)
            append(journal, entry)
            journal._db.set_progress_handler(None, 1)

        def training(module: PlainModule, batch, batch_idx: int):
            self.comes("step")
            return training_step(module, batch, batch_idx)

        def renaming(source, target, **where):
            if str(source).startswith(tempfile.gettempdir()) and not str(source).startswith(str(folder)):
                raise OSError(errno.EXDEV, "another disk")
            return rename(source, target, **where)

        Evaluator.__call__, Journal.append, os.rename = evaluating, writing, renaming
        PlainModule.training_step = training
        sys.addaudithook(self.audit)

    def comes(self, moment: str) -> int:
        """Come one step nearer to the end, if it is to come at this kind of moment."""
        self.left -= moment == self.moment
        if moment == self.moment and not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    def audit(self, event: str, arguments: tuple) -> None:
        """Hear of the interpreter, before it does something with a file."""
        if event not in ("open", "os.rename", "os.remove", "os.mkdir") or str(self.folder / "prune") not in str(
            arguments
        ):
            return
        self.comes("file")
        if self.moment == "copy" and event == "open" and Path(arguments[0]).suffix in (".ckpt", ".part"):
            if self.left == 1:
                self.moment = ""  # what comes now is to do what it says
                Path(arguments[0]).write_bytes(b"a part")
                os.kill(os.getpid(), signal.SIGKILL)
            self.left -= 1


def at_random(seed: int, folder: Path) -> tuple[str, int]:
    """Return a moment and its number."""
    rng, moments = random.Random(seed), MEASURING if len(finished(folder)) < 2 * VALUES + 1 else TRAINING
    moment = rng.choice(list(moments))
    return moment, rng.randint(1, moments[moment])


def in_child(folder: Path, moment: str = "", left: int = 0) -> bool:
    """Run in a child; whether it was killed."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)
    status = 1
    try:
        Death(moment, left, folder)
        finish(folder)
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("whole")
    assert not in_child(folder)
    return tensors(folder)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "prune" / FINAL, weights_only=True)["state_dict"]


def finished(folder: Path) -> set[str]:
    return {entry.key for entry in read(folder / "prune" / JOURNAL)}


def evaluations(folder: Path) -> list[str]:
    file = folder / "evaluations"
    return file.read_text().split() if file.is_file() else []


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


def test_kills_change_nothing(whole, tmp_path):
    done: set[str] = set()
    for seed in count():
        before = len(evaluations(tmp_path))
        killed = in_child(tmp_path, *at_random(seed, tmp_path))
        assert not done & set(evaluations(tmp_path)[before:])
        if not killed:
            break
        done = finished(tmp_path)
    assert seed >= LEAST
    assert same(tensors(tmp_path), whole)


def test_killed_while_a_checkpoint_takes_the_place_of_another_it_goes_on_from_that(whole, tmp_path):
    assert in_child(tmp_path, "copy", 2)
    assert not in_child(tmp_path)
    assert same(tensors(tmp_path), whole)
