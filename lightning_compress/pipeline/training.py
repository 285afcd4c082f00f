"""Training that can be killed at any moment: the same call goes on where the last finished epoch ended."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import CSVLogger, Logger

from lightning_compress.callbacks.base.stop_at_nan import StopAtNaN
from lightning_compress.core.atomic_write import atomic_write, remove_stale_parts
from lightning_compress.core.errors import CompressError, did_you_mean
from lightning_compress.core.interruption import check_interrupted
from lightning_compress.core.settings import settings_of
from lightning_compress.pipeline.checkpoint import check_own, load_checkpoint, readable, save_checkpoint
from lightning_compress.pipeline.quiet import quiet

FINAL, LAST = "final.ckpt", "last.ckpt"
ORIGIN = "trained_from.json"
QUIET = {"enable_model_summary": False, "num_sanity_val_steps": 0, "log_every_n_steps": 10}  # unless the user says else
SHOWN = {"logger", "profiler", "default_root_dir", "enable_progress_bar", "enable_checkpointing", *QUIET}
PLACES = {"accelerator", "devices", "num_nodes", "strategy", "plugins"}  # a training may go on elsewhere
csv_logger = partial(CSVLogger, name="log")  # a resumed training writes its own log/version_N


def fit(
    module: LightningModule,
    data: LightningDataModule,
    make_trainer: Callable[..., Trainer],
    *,
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
        data: with train and validation loaders.
        make_trainer: ``lightning.Trainer`` with the user's settings, as a partial; each training gets copies of its
            callbacks, behind ours.
        folder: holds ``last.ckpt`` while training, ``final.ckpt`` after it, and the logged metrics.
        epochs: none leaves the module as the callbacks made it; -1 leaves the end to ``steps``.
        seed: set before training.
        callbacks: applied in order.
        make_logger: ``(save_dir) -> Logger``; it is given the folder.
        steps: of the optimizer, at most; None leaves that to ``make_trainer``.

    Raises:
        CompressError: the user's settings leave no room for checkpoints, a checkpoint in the folder is damaged, or
            there would be no end: epochs are below 0, which Lightning takes for none, and steps are not given.
    """
    if epochs < 0 and steps is None:
        raise CompressError(f"training: epochs must be 0 or more, got {epochs}")
    check_trainer(make_trainer)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # jobs of a sweep share the dense network: the first trains it, the others wait
        remove_stale_parts(folder)
        if (folder / FINAL).is_file():
            check_own(folder / FINAL)
            return load_checkpoint(module.cpu(), folder / FINAL)  # where a training would leave it
        return _train(
            module,
            data,
            make_trainer,
            folder=folder,
            epochs=epochs,
            seed=seed,
            callbacks=callbacks,
            make_logger=make_logger,
            steps=steps,
        )


def check_trainer(make_trainer: Callable[..., Trainer]) -> None:
    """Raise if a setting would have no effect, or a training with these could not be killed and resumed.

    Raises:
        CompressError: it is so.
    """
    settings = _settings(make_trainer)
    _check_known(make_trainer)
    if settings.get("limit_test_batches") == 0:
        raise CompressError(
            f"trainer: limit_test_batches={settings['limit_test_batches']} leaves no test data, on which the network "
            f"is measured before and after compression; leave it out, or give 1 or more"
        )
    if settings.get("max_epochs") is not None:
        raise CompressError(
            f"trainer: max_epochs={settings['max_epochs']} would have no effect, for each training has its own; set "
            f"epochs= for that of the dense network, finetune.epochs= for the fine-tuning (in Python the argument "
            f"epochs, or that of the stage), and leave max_epochs out"
        )
    if settings.get("logger") not in (None, True, False):
        raise CompressError(
            "trainer: its logger would have no effect, for each training and search has its own; set logger= (in "
            "Python make_logger) and leave it out of the trainer"
        )
    if settings.get("barebones"):
        raise CompressError(
            "trainer: barebones=True allows neither checkpoints nor logs, and a training here has both, so that it can "
            "go on where it was killed; leave barebones out"
        )


def _check_known(make_trainer: Callable[..., Trainer]) -> None:
    """Raise if a setting is no argument of what makes the Trainer."""
    if isinstance(make_trainer, partial):
        makes = inspect.signature(make_trainer.func)
        try:
            makes.bind_partial(*make_trainer.args, **make_trainer.keywords)
        except TypeError as error:
            unknown = next((name for name in make_trainer.keywords if name not in makes.parameters), "")
            raise CompressError(f"trainer: {error}{did_you_mean(unknown, makes.parameters)}; leave it out") from error


def _settings(make_trainer: Callable[..., Trainer]) -> Mapping[str, Any]:
    return make_trainer.keywords if isinstance(make_trainer, partial) else {}


def trainer_settings(make_trainer: Callable[..., Trainer]) -> dict[str, Any]:
    """Return the user's settings that a training depends on, as plain types: not what is shown, nor where it runs."""
    return settings_of({key: value for key, value in _settings(make_trainer).items() if key not in SHOWN | PLACES})


def single_precision(make_trainer: Callable[..., Trainer]) -> dict[str, Any]:
    """Return the setting with which a Trainer runs in fp32, as files do, where the user's is of another precision."""
    return {"precision": "32-true"} if "precision" in _settings(make_trainer) else {}


def renew(folder: Path, origin: Mapping[str, Any]) -> None:
    """Delete what was trained in a folder under other settings, so that it is trained again.

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
    *,
    folder: Path,
    epochs: int,
    seed: int,
    callbacks: Sequence[Callback],
    make_logger: Callable[..., Logger],
    steps: int | None,
) -> LightningModule:
    seed_everything(seed, workers=True, verbose=False)
    last, before = folder / LAST, {value.dtype for value in module.parameters() if value.is_floating_point()}
    theirs = copy.deepcopy(_settings(make_trainer).get("callbacks") or [])  # one training must not know of another
    with quiet():
        trainer = make_trainer(
            **{**QUIET, **{key: value for key, value in _settings(make_trainer).items() if key in QUIET}},
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
        )
        if last.is_file():
            check_own(last)
        with readable():
            trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.is_file() else None)
    check_interrupted()
    save_checkpoint(trainer, folder / FINAL, weights_only=True)
    last.unlink(missing_ok=True)
    if len(before) == 1:  # a Trainer of half or double precision has converted it; a load would give this type
        module.to(before.pop())
    return module


class _EachEpoch(Checkpoint):
    """Writes ``last.ckpt`` after each epoch, as a plain ModelCheckpoint does, but in place at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_start(self, *_: Any) -> None:
        check_interrupted()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        save_checkpoint(trainer, self.folder / LAST)
