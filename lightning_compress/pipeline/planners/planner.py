"""Base class of planners: how a stage comes to its plan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.kinds import HasKind
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import Profile
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.student import Student


@dataclass(frozen=True)
class Planned:
    """A plan and how it came about.

    Attributes:
        plan: as it was found; the stage rounds it to what the network can have.
        origin: one sentence for the report, without a capital and a full stop.
        order: layers in the order in which a layer-by-layer stage compresses them; empty for that of the network.
        limit: the budget that the plan meets, in words; empty where there is none.
        errors: of each value of each choice, in the order of the stage's space, which the plan was made of; None where
            it was not made so.
    """

    plan: Plan
    origin: str
    order: tuple[str, ...] = ()
    limit: str = ""
    errors: tuple[tuple[float, ...], ...] | None = None


class Planner(HasKind, ABC):
    """Makes the plan of a stage."""

    @property
    def knobs(self) -> frozenset[str]:
        """The knobs that its settings name, each of which a callback of some stage must understand."""
        return frozenset()

    @property
    def costs(self) -> tuple[Cost, ...]:
        """The costs that it works with, which are figures of the run."""
        return ()

    @abstractmethod
    def make_plan(self, composition: Composition, student: Student, run: RunContext, folder: Path) -> Planned:
        """Return a plan for the network, or go on with what a killed run left in the folder.

        Args:
            composition: the callbacks of the stage, bound to the network before it.
            student: a copy of that network's module. What is gathered on it is used by the training after the plan.
            run: what the stages of the run share.
            folder: of the stage; its name is the stage's.

        Raises:
            CompressError: the planner cannot make a plan for these callbacks and this network.
        """

    def measured(
        self, planned: Planned, composition: Composition, student: Student, run: RunContext, folder: Path
    ) -> Planned:
        """Return a plan that was measured to meet its limits, where some are measured: by default the plan itself.

        Args:
            planned: what :meth:`make_plan` returned.
            composition: the callbacks of the stage, bound to the network before it.
            student: a copy of that network's module.
            run: what the stages of the run share.
            folder: of the stage.

        Raises:
            CompressError: no plan meets a limit.
        """
        return planned

    def check(self, stage: str) -> None:
        """Raise if a setting cannot be, before anything is trained.

        Args:
            stage: name of the stage, for the message.

        Raises:
            CompressError: a setting cannot be.
        """

    @property
    def reads_scores(self) -> bool:
        """Whether it validates candidates, so that names of metrics are among its settings."""
        return False

    def check_metrics(self, stage: str, logged: Mapping[str, float], dense: Profile) -> None:
        """Raise if a metric that its settings name is not logged, before anything is trained.

        Args:
            stage: name of the stage, for the message.
            logged: what ``validation_step`` logs.
            dense: profile of the network before any stage.

        Raises:
            CompressError: a metric is not logged.
        """

    def unmentioned(self, composition: Composition) -> Planned:
        """Return the plan for a run whose plan file says nothing of this stage: by default, nothing is changed.

        The file takes the place of a search, and what a search leaves out of a plan stays as it is.
        """
        return Planned(Plan({}), "the plan file says nothing of this stage, so it changes nothing")
