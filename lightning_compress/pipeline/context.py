"""What the stages of a run share, and what each of them does with a network before it is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_compress.callbacks.base.device import surgery_device
from lightning_compress.core.budget import Budget
from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.digest import digest_of
from lightning_compress.core.errors import CompressError, InfeasibleBudgetError
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import Profile
from lightning_compress.core.settings import settings_of
from lightning_compress.pipeline.quiet import quiet
from lightning_compress.pipeline.training import csv_logger
from lightning_compress.surgery import measure
from lightning_compress.surgery.inputs import combined, example_of
from lightning_compress.surgery.structure import network

if TYPE_CHECKING:
    from lightning_compress.callbacks.base.composition import Composition

FOUND = "search.json"  # in the folder of a stage that searched
MEASURED = "sensitivity.json"  # in the folder of a stage that measured sensitivities in place of a search


@dataclass
class RunContext:
    """What all stages of a run share.

    Attributes:
        data: batches; the test loader is not opened by any stage.
        dense: the trained network before any stage: the teacher, and what budgets are shares of.
        dense_profile: its profile.
        example: one input batch.
        make_trainer: ``lightning.Trainer`` with the user's settings, as a partial.
        folder: of the run; each stage has its own below it.
        seed: of everything.
        plan: a file that replaces the search of all stages, each of which takes what it understands of it; or None.
        make_logger: ``(save_dir) -> Logger``, for each training and each search.
    """

    data: LightningDataModule
    dense: LightningModule
    dense_profile: Profile
    example: Any
    make_trainer: Callable[..., Trainer]
    folder: Path
    seed: int
    plan: Plan | None
    make_logger: Callable[..., Logger] = csv_logger

    @classmethod
    def begun(
        cls,
        module: LightningModule,
        data: LightningDataModule,
        folder: Path,
        make_trainer: Callable[..., Trainer] = Trainer,
        seed: int = 0,
        plan: Plan | None = None,
        make_logger: Callable[..., Logger] = csv_logger,
    ) -> Self:
        """With the data set up, and the module measured on two samples: its ``example_input_array``, or of validation.

        Raises:
            CompressError: there is neither, or the network does not run on them.
        """
        data.prepare_data()
        data.setup("fit")
        example = example_of(module, combined(data.val_dataloader(), "sequential"), "validation_step")
        profile = measure.measure(network(module), example)
        return cls(data, module, profile, example, make_trainer, folder, seed, plan, make_logger)

    @cached_property
    def _trainer(self) -> Trainer:
        with quiet():
            return self.make_trainer(callbacks=[], logger=False, enable_checkpointing=False)

    @property
    def device(self) -> torch.device:
        """Where networks are changed."""
        return surgery_device(self._trainer)

    @property
    def scoring_device(self) -> torch.device:
        """Where candidates are trained and validated."""
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
        """The folder of a stage, without what an earlier run found or measured there: only this run says so again.

        Journals stay, for a search that goes on.
        """
        folder = self.folder / stage
        folder.mkdir(parents=True, exist_ok=True)
        for name in (FOUND, MEASURED):
            (folder / name).unlink(missing_ok=True)
        return folder

    def teaching(self, distillation: Callable[..., Callback] | None) -> list[Callback]:
        """The distillation of a stage, with the dense network as teacher; empty for None."""
        return [distillation(teacher=copy.deepcopy(self.dense))] if distillation else []

    def budget(self, stage: str, composition: Composition, cost: Cost | None, budget: float | str | None) -> Budget:
        """Over all choices of a stage.

        Args:
            stage: its name, for errors.
            composition: its callbacks.
            budget: a share of the dense network's cost or the limit itself, see :meth:`Cost.limit`.

        Raises:
            CompressError: there is no cost or no budget, or it is not above 0.
            InfeasibleBudgetError: no plan meets it.
        """
        if cost is None or budget is None:
            missing = "cost" if cost is None else "budget"
            raise CompressError(
                f"stage {stage}: {missing} is null, and a plan is to be found under a budget; set a cost, and budget "
                f"to a share of what the dense network costs (1.0 sets no limit) or above 1 to the limit itself"
            )
        dense, space = cost(self.dense_profile), composition.space()
        try:
            limit = cost.limit(budget, dense)
        except CompressError as error:
            raise CompressError(f"stage {stage}: {error}") from None

        def spent(plan: Plan) -> float:
            return cost(composition.predict(plan))

        try:
            return Budget(spent, limit, space)
        except InfeasibleBudgetError as error:
            least = spent(space.plan(space.smallest))
            share = ceil(1e4 * least / dense) / 1e4  # rounded up, so that it can be met
            raise InfeasibleBudgetError(
                f"stage {stage}: the budget of {cost.text(limit)}"
                f"{'' if limit == budget or isinstance(budget, str) else f' (budget={budget:g} of the dense network)'} "
                f"cannot be met; the smallest feasible one is {cost.text(cost.round_up(least))}"
                f"{f' (budget={share:g})' if share <= 1 else ''}. Raise the budget, or allow smaller values in the "
                f"search space"
            ) from error

    def origin(
        self, module: LightningModule, distillation: Callable[..., Callback] | None, **settings: Any
    ) -> dict[str, Any]:
        """What a training of a stage depends on, as plain types.

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
            **settings_of(settings),
        }

    def taught(self, distillation: Callable[..., Callback] | None) -> dict[str, Any] | None:
        """What the distillation of a stage depends on, as plain types; None without it."""
        if distillation is None:
            return None
        return {**settings_of(partial(distillation)), "teacher": digest_of(network(self.dense).state_dict())}


def check_least(stage: str, **settings: tuple[int | None, int]) -> None:
    """Numbers of a stage that a search would stumble over later, under a name that says less.

    Args:
        stage: its name.
        settings: name -> number, the least it may be; None is not checked.

    Raises:
        CompressError: a number is smaller.
    """
    for key, (number, least) in settings.items():
        if number is not None and number < least:
            raise CompressError(f"stage {stage}: {key} must be {least} or more, got {number}")


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
