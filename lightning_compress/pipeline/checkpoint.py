"""Checkpoints: written without a user's hyperparameters, read without running code, refused where bytes have changed.

Hyperparameters may be anything: paths, functions, networks, classes. What resumes a training has its module already, so
they are left out of what is written here. In files of the user's, which may hold them, classes that are not needed are
replaced by :class:`_Unread` while ``torch.load(weights_only=True)`` reads the tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path, PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from lightning_compress.core.atomic_write import atomic_write
from lightning_compress.core.errors import CompressError, first_line
from lightning_compress.core.file_digest import damage, is_sealed, seal
from lightning_compress.surgery.structure import load_structure

# Plain data that torch does not count as such, and whose constructors run no code of others.
PLAIN: list[Any] = [
    *(Path, PosixPath, PurePosixPath, PureWindowsPath, WindowsPath),
    *(np.dtype, np.ndarray, np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]),
    *(type(np.dtype(code)) for code in "?bBhHiIlLqQefdFD"),
]


def readable() -> AbstractContextManager[None]:
    """Let Lightning read, inside the context, all that :func:`save_checkpoint` lets through."""
    return safe_globals(PLAIN)


def save_checkpoint(trainer: Trainer, path: Path, weights_only: bool = False) -> None:
    """Save a checkpoint that is there as a whole or not at all, whenever the process is killed, with a digest.

    Args:
        trainer: whose state and module are saved.
        path: of the checkpoint.
        weights_only: leave out what only resuming a training needs.

    Raises:
        CompressError: it cannot be written, or a callback, the module or the data module puts in it what could not be
            read again without running code.
    """
    strategy = trainer.strategy
    theirs, strategy.checkpoint_io = strategy.checkpoint_io, _OwnFiles()
    try:
        with atomic_write(path) if trainer.is_global_zero else nullcontext(path) as part:  # the others write nothing
            trainer.save_checkpoint(part, weights_only)
            if trainer.is_global_zero:
                _check_plain(part)
                seal(part)
    finally:
        strategy.checkpoint_io = theirs


class _OwnFiles(TorchCheckpointIO):
    """Writes checkpoints without hyperparameters, and in place: Lightning's own way copies them in memory first."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        left_out = {
            getattr(of, key)
            for of in (LightningModule, LightningDataModule)
            for key in ("CHECKPOINT_HYPER_PARAMS_KEY", "CHECKPOINT_HYPER_PARAMS_NAME", "CHECKPOINT_HYPER_PARAMS_TYPE")
        }
        try:
            torch.save({key: value for key, value in checkpoint.items() if key not in left_out}, path)
        except (OSError, RuntimeError) as error:  # torch raises the latter where the disk is full
            raise CompressError(
                f"checkpoint: {str(path)!r} cannot be written ({first_line(error)}). Make room on the disk, and give "
                f"the same command again"
            ) from error
        except (TypeError, AttributeError, ValueError) as error:
            raise CompressError(f"checkpoint: {first_line(error)}; {_PLAIN_STATE}") from error


_PLAIN_STATE = (
    "let the state_dict() of callbacks, of schedulers and of the data module, and on_save_checkpoint of the module, "
    "give tensors and plain values alone"
)


def _check_plain(path: Path) -> None:
    """Raise unless a checkpoint can be read without running code of others.

    Raises:
        CompressError: it cannot.
    """
    with readable():
        unknown = get_unsafe_globals_in_checkpoint(path)
    if unknown:
        raise CompressError(
            f"checkpoint: {str(path)!r} holds values of {', '.join(sorted(unknown))}, which cannot be read without "
            f"running code; {_PLAIN_STATE}"
        )


def check_own(path: Path) -> None:
    """Raise unless a file is as :func:`save_checkpoint` wrote it.

    Raises:
        CompressError: its bytes have changed, or something else wrote it.
    """
    wrong = damage(path) or (None if is_sealed(path) else "it has no digest of this package")
    if wrong:
        raise CompressError(
            f"checkpoint: {str(path)!r} is damaged: {wrong}. Delete it, and the same command trains again what it held"
        )
    _check_plain(path)


class _Unread:
    """Stands for whatever a file holds beside tensors and plain values; nothing is run to make it."""

    def __new__(cls, *_: object, **__: object) -> _Unread:
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Drop it."""


def _read(path: Path) -> Any:
    """Return what a file holds, with :class:`_Unread` for what is no plain value.

    Raises:
        CompressError: it is damaged or no file of torch's.
    """
    if wrong := damage(path):
        raise CompressError(f"checkpoint: {str(path)!r} is damaged: {wrong}. Get it or train it again")
    try:
        with readable():
            unknown = get_unsafe_globals_in_checkpoint(path)
    except Exception:  # no zip archive: an older format of torch's, or none
        unknown = []
    try:
        with safe_globals([*PLAIN, *((_Unread, name) for name in unknown)]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly anything
        raise CompressError(
            f"checkpoint: {str(path)!r} is damaged, or holds what cannot be read without running code "
            f"({first_line(error)}). If you trust it, save what counts: "
            f"torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW)"
        ) from error


def load_checkpoint(module: LightningModule, path: Path) -> LightningModule:
    """Give a module the structure and weights of a checkpoint (or a plain ``state_dict``) file.

    Raises:
        CompressError: the file is missing or damaged, or holds something else or the weights of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise CompressError(f"checkpoint: there is no file {str(path)!r}")
    checkpoint = _read(path)
    if not isinstance(checkpoint, Mapping):
        found = "pickled object" if isinstance(checkpoint, _Unread) else type(checkpoint).__name__
        raise CompressError(
            f"checkpoint: {str(path)!r} holds a {found}, expected a state_dict; save one with "
            f"torch.save(module.state_dict(), FILE)"
        )
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
