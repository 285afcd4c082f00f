"""Training that can be killed at any moment: the same call goes on where the last finished epoch ended."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from filelock import FileLock
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import CSVLogger, Logger

from lightning_compress.callbacks.base.stop_at_nan import StopAtNaN
from lightning_compress.core.atomic_write import atomic_write
from lightning_compress.core.errors import CompressError
from lightning_compress.pipeline.quiet import quiet
from lightning_compress.surgery.structure import load_structure

FINAL, LAST = "final.ckpt", "last.ckpt"
ORIGIN = "trained_from.json"
csv_logger = partial(CSVLogger, name="log")  # a resumed training writes its own log/version_N


def fit(
    module: LightningModule,
    data: LightningDataModule,
    make_trainer: Callable[..., Trainer],
    folder: Path,
    epochs: int,
    seed: int,
    callbacks: Sequence[Callback] = (),
    make_logger: Callable[..., Logger] = csv_logger,
    steps: int | None = None,
) -> LightningModule:
    """Train ``module``, or load what an earlier call with the same folder trained.

    Args:
        module: is changed in place, and returned.
        make_trainer: ``lightning.Trainer`` with the user's settings, as a partial; each training gets copies of its
            callbacks, behind ours.
        folder: holds ``last.ckpt`` while training, ``final.ckpt`` after it, and the logged metrics.
        epochs: none leaves the module as the callbacks made it.
        seed: set before training.
        callbacks: applied in order.
        make_logger: ``(save_dir) -> Logger``; it is given the folder.
        steps: of the optimizer, at most; None leaves that to ``make_trainer``.

    Raises:
        CompressError: the user's settings leave no room for checkpoints, or the user interrupted the training.
    """
    check_trainer(make_trainer)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # jobs of a sweep share the dense network: the first trains it, the others wait
        if (folder / FINAL).is_file():
            return load_checkpoint(module.cpu(), folder / FINAL)  # where a training would leave it
        return _train(module, data, make_trainer, folder, epochs, seed, callbacks, make_logger, steps)


def check_trainer(make_trainer: Callable[..., Trainer]) -> None:
    """Whether a training with these settings can be killed and go on.

    Raises:
        CompressError: it cannot.
    """
    if _settings(make_trainer).get("barebones"):
        raise CompressError(
            "trainer: barebones=True allows neither checkpoints nor logs, and a training here has both, so that it can "
            "go on where it was killed; leave barebones out"
        )


def _settings(make_trainer: Callable[..., Trainer]) -> Mapping[str, Any]:
    return make_trainer.keywords if isinstance(make_trainer, partial) else {}


def renew(folder: Path, origin: Mapping[str, Any]) -> None:
    """Throw away what was trained in a folder from anything else, so that it is trained again.

    Args:
        folder: of a stage; trainings in its ``layers/`` belong to it.
        origin: what the training depends on, as plain types: the plan, the network it begins with, its settings.
    """
    file, text = folder / ORIGIN, json.dumps(origin)
    if file.is_file() and file.read_text() == text:
        return
    for name in (FINAL, LAST):
        for checkpoint in (folder / name, *folder.glob(f"layers/*/{name}")):
            checkpoint.unlink(missing_ok=True)
    with atomic_write(file) as part:  # last: a killed process renews again
        part.write_text(text)


def _train(
    module: LightningModule,
    data: LightningDataModule,
    make_trainer: Callable[..., Trainer],
    folder: Path,
    epochs: int,
    seed: int,
    callbacks: Sequence[Callback],
    make_logger: Callable[..., Logger],
    steps: int | None,
) -> LightningModule:
    seed_everything(seed, workers=True, verbose=False)
    last = folder / LAST
    theirs = copy.deepcopy(_settings(make_trainer).get("callbacks") or [])  # one training must not know of another
    with quiet():
        trainer = make_trainer(
            max_epochs=epochs,
            **({} if steps is None else {"max_steps": steps}),
            callbacks=[
                *callbacks,
                *(theirs if isinstance(theirs, list) else [theirs]),
                StopAtNaN(),
                _EachEpoch(folder),
            ],
            enable_checkpointing=True,
            logger=make_logger(save_dir=folder),
            default_root_dir=folder,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=10,
        )
        trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.is_file() else None)
    if trainer.interrupted:
        raise CompressError(f"interrupted at epoch {trainer.current_epoch}; run the same command again to go on")
    _save(trainer, folder / FINAL, weights_only=True)
    last.unlink(missing_ok=True)
    return module


class _EachEpoch(Checkpoint):
    """Writes ``last.ckpt`` after each epoch, as a plain ModelCheckpoint does, but in place at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _save(trainer, self.folder / LAST)


def _save(trainer: Trainer, path: Path, weights_only: bool = False) -> None:
    """Save a checkpoint that is there as a whole or not at all, whenever the process is killed.

    Lightning writes it into the system's temporary folder and moves it, which copies it where that is another disk.
    """
    with atomic_write(path) if trainer.is_global_zero else nullcontext(path) as part:  # the others write nothing
        trainer.save_checkpoint(part, weights_only)


def load_checkpoint(module: LightningModule, path: Path) -> LightningModule:
    """Give a module the structure and weights of a checkpoint (or a plain ``state_dict``) file.

    Raises:
        CompressError: the file is missing or damaged, or holds something else or the weights of another network.
    """
    if not Path(path).is_file():
        raise CompressError(f"checkpoint: there is no file {str(path)!r}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, EOFError, RuntimeError) as error:
        raise CompressError(
            f"checkpoint: {str(path)!r} is damaged, or holds more than tensors and plain values, which could run code; "
            f"if you trust it, save what counts: torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW)"
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise CompressError(f"checkpoint: {str(path)!r} holds a {type(checkpoint).__name__}, expected a state_dict")
    load_structure(module, checkpoint)
    given, own = checkpoint.get("state_dict", checkpoint), module.state_dict()
    try:
        module.load_state_dict(given)
    except RuntimeError as error:
        others = {
            "it lacks": own.keys() - given.keys(),
            "it has besides": given.keys() - own.keys(),
            "of another shape are": {k for k in own.keys() & given.keys() if own[k].shape != given[k].shape},
        }
        said = [f"{words} {_some(keys)}" for words, keys in others.items() if keys]
        raise CompressError(
            f"checkpoint: {str(path)!r} does not fit {type(module).__name__}: {'; '.join(said) or error}"
        ) from error
    return module


def _some(names: Collection[str]) -> str:
    first = ", ".join(sorted(names)[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"
