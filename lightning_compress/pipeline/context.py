"""State shared by the stages of a run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_compress.callbacks.base.device import surgery_device
from lightning_compress.core.digest import digest_of
from lightning_compress.core.errors import CompressError
from lightning_compress.core.profile import Profile
from lightning_compress.core.settings import settings_of
from lightning_compress.core.whole_numbers import check_whole
from lightning_compress.pipeline.hyperparameters import hyperparameters
from lightning_compress.pipeline.quiet import quiet
from lightning_compress.pipeline.seeding import digest_of_data
from lightning_compress.pipeline.training import csv_logger, trainer_settings
from lightning_compress.surgery import measure
from lightning_compress.surgery.inputs import combined, example_of
from lightning_compress.surgery.structure import network

FOUND = "search.json"  # in the folder of a stage that searched
PLANNED = "planned.json"  # in the folder of a stage with a plan: how that came about
MEASURED = "sensitivity.json"  # in the folder of a stage that measured sensitivities in place of a search


@dataclass
class RunContext:
    """State shared by the stages of a run.

    Attributes:
        data: batches; the test loader is not opened by any stage.
        dense: the trained network before any stage: the teacher, and what budgets are shares of.
        dense_profile: its profile.
        example: one input batch.
        make_trainer: ``lightning.Trainer`` with the user's settings, as a partial.
        folder: of the run; each stage has its own below it.
        seed: of everything.
        make_logger: ``(save_dir) -> Logger``, for each training and each search.
    """

    data: LightningDataModule
    dense: LightningModule
    dense_profile: Profile
    example: Any
    make_trainer: Callable[..., Trainer]
    folder: Path
    seed: int
    make_logger: Callable[..., Logger] = csv_logger

    @classmethod
    def begun(
        cls,
        module: LightningModule,
        data: LightningDataModule,
        folder: Path,
        *,
        make_trainer: Callable[..., Trainer] = Trainer,
        seed: int = 0,
        make_logger: Callable[..., Logger] = csv_logger,
    ) -> Self:
        """Set up the data and measure the module on its ``example_input_array``, or on a validation batch.

        Raises:
            CompressError: there is neither, or the network does not run on them.
        """
        data.prepare_data()
        data.setup("fit")
        example = example_of(module, combined(data.val_dataloader(), "sequential"), "validation_step")
        profile = measure.measure(network(module), example)
        return cls(
            data,
            module,
            profile,
            example=example,
            make_trainer=make_trainer,
            folder=folder,
            seed=seed,
            make_logger=make_logger,
        )

    @cached_property
    def _trainer(self) -> Trainer:
        with quiet():
            return self.make_trainer(callbacks=[], logger=False, enable_checkpointing=False)

    @property
    def device(self) -> torch.device:
        """Device on which networks are changed."""
        return surgery_device(self._trainer)

    @property
    def scoring_device(self) -> torch.device:
        """Device on which candidates are trained and validated."""
        return self._trainer.strategy.root_device

    def loaders(self) -> tuple[Any, Any]:
        """Train and validation batches, for scores.

        Raises:
            CompressError: the data module has a hook that changes them, which is called in whole trainings only.
        """
        for hook in ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"):
            if is_overridden(hook, self.data):
                raise CompressError(
                    f"{type(self.data).__name__}: candidates are scored without its {hook}; move that to "
                    f"{type(self.dense).__name__}, whose hooks are called everywhere"
                )
        return self.data.train_dataloader(), self.data.val_dataloader()

    def opened(self, stage: str) -> Path:
        """Return the folder of a stage, without the findings of an earlier run.

        Journals stay, for a search that goes on.
        """
        folder = self.folder / stage
        folder.mkdir(parents=True, exist_ok=True)
        for name in (PLANNED, FOUND, MEASURED):
            (folder / name).unlink(missing_ok=True)
        return folder

    def teaching(self, distillation: Callable[..., Callback] | None) -> list[Callback]:
        """Return the distillation of a stage, with the dense network as teacher; empty for None."""
        return [distillation(teacher=copy.deepcopy(self.dense))] if distillation else []

    def origin(
        self, module: LightningModule, distillation: Callable[..., Callback] | None, **settings: Any
    ) -> dict[str, Any]:
        """Return what a training of a stage depends on, as plain types.

        Args:
            module: the network that it begins with, before any callback.
            distillation: of the stage.
            settings: all else that counts, of any type.
        """
        weights = digest_of(network(module).state_dict())
        return {
            "weights": weights,
            "seed": self.seed,
            "distillation": self.taught(distillation),
            **self.trains_with,
            **settings_of(settings),
        }

    @cached_property
    def trains_with(self) -> dict[str, Any]:
        """Settings of the Trainer, train data and module, on which all trainings depend, as plain types."""
        return {
            "trainer": trainer_settings(self.make_trainer),
            "train_data": digest_of_data(self.seed, self.data.train_dataloader()),
            "module": hyperparameters(self.dense),
        }

    def taught(self, distillation: Callable[..., Callback] | None) -> dict[str, Any] | None:
        """Return what the distillation of a stage depends on, as plain types; None without it."""
        if distillation is None:
            return None
        return {**settings_of(partial(distillation)), "teacher": digest_of(network(self.dense).state_dict())}


def check_least(stage: str, **settings: tuple[int | None, int]) -> None:
    """Validate lower bounds of stage settings.

    Args:
        stage: its name.
        settings: name -> number, the least it may be; None is not checked.

    Raises:
        CompressError: a number is smaller, or no whole number.
    """
    for key, (number, least) in settings.items():
        if number is not None:
            check_whole(f"stage {stage}: {key}", number, least)


def set_attributes(module: LightningModule, attributes: Mapping[str, Any], stage: str) -> None:
    """Set what differs in the fine-tuning of a stage, such as the learning rate.

    Raises:
        CompressError: the module has no such attribute.
    """
    for key, value in attributes.items():
        if not hasattr(module, key):
            raise CompressError(
                f"stage {stage}: {type(module).__name__} has no attribute {key!r} to set for fine-tuning"
            )
        setattr(module, key, value)
