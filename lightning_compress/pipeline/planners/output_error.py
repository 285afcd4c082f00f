"""Output error: the plan with the least error of single layers' outputs under a budget; no candidate is scored.

    min sum over choices of w_i e_i(v_i)     s.t.     cost(v) <= limit
    e = r / (1 - r),   r: the relative squared error that one choice causes in the outputs of layers, on a few batches

Each callback reports the errors of its knobs (``output_errors``): of channels the error of the layers that read them,
after the refit; of bits, masks, ranks and removed blocks the error of the layer's own output. Errors of different
layers are added as they are (all weights 1), or with the weights of choice_weights.py. The solver asks the exact cost
(core/least_error.py), so costs need not be additive. Ours; the parts are those of AMC (arXiv 1802.03494), ThiNet (arXiv
1707.06342) and the knapsack of paper 5 (arXiv 1910.05897). Searches start from its plan or from a uniform one. It
breaks where layers interact: it knows what each loses, not what the others make of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, final

from lightning import LightningModule

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.budget import Budget
from lightning_compress.core.errors import CompressError
from lightning_compress.core.least_error import least_error
from lightning_compress.distillation.hinton import Hinton
from lightning_compress.distillation.loss import DistillationLoss
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.planners.budgeted import BudgetedPlanner
from lightning_compress.pipeline.planners.choice_weights import weighed
from lightning_compress.pipeline.planners.divergence import Divergence
from lightning_compress.pipeline.planners.planner import Planned
from lightning_compress.pipeline.student import Student
from lightning_compress.surgery.inputs import network_inputs
from lightning_compress.surgery.isolated_rng import isolated_rng
from lightning_compress.surgery.structure import network


@final
@dataclass(frozen=True, kw_only=True)
class OutputError(BudgetedPlanner):
    """Choose all numbers by the errors of layers' outputs.

    Attributes:
        batches: train batches for errors of channels where a callback has not gathered inputs of its own, and for
            probes; errors of other knobs are those on the first.
        probes: of these, batches on which the network is also run with each choice alone at its middle value, which
            weighs its errors and takes longer. 0 adds errors as they are.
        loss: says with probes how far outputs are from those of the dense network; None takes their relative squared
            error. Give the distillation loss, which knows whether outputs are class scores.

    Raises:
        CompressError: ``batches`` is below 1, or ``probes`` is no whole number from 0 to ``batches``.
    """

    batches: int = 4
    probes: int = 0
    loss: DistillationLoss | None = field(default_factory=Hinton)

    def __post_init__(self) -> None:
        if not (isinstance(self.batches, int) and self.batches >= 1):
            raise CompressError(f"OutputError: batches must be a whole number of 1 or more, got {self.batches!r}")
        if not (isinstance(self.probes, int) and 0 <= self.probes <= self.batches):
            raise CompressError(
                f"OutputError: probes must be a whole number from 0 to batches={self.batches}, of which they are a "
                f"part, got {self.probes!r}"
            )

    def make_plan(self, composition: Composition, student: Student, run: RunContext, folder: Path) -> Planned:
        """Return the plan of the least error that meets the budget.

        Raises:
            CompressError: there is nothing to choose, or there is no train batch.
            InfeasibleBudgetError: no plan meets the budget.
        """
        budget = self.budget_for(composition, run, folder.name)
        student.module.to(run.device)
        for callback in composition.callbacks:
            callback.calibrate(student.module, run.data.train_dataloader())
        with isolated_rng():  # loaders, and steps that find a network's inputs, may draw
            errors = self.errors(composition, budget, student.module, run.data.train_dataloader())
        origin = f"made in closed form by {type(self).__name__}; no candidate was scored"
        return Planned(budget.space.plan(least_error(errors, budget)), origin, limit=self.limit, errors=errors)

    def errors(
        self, composition: Composition, budget: Budget, module: LightningModule, batches: Iterable[Any]
    ) -> tuple[tuple[float, ...], ...]:
        """Return the error of each value of each choice.

        Args:
            composition: the callbacks, calibrated on the module.
            budget: over the composition's space.
            module: of the network before it is compressed; it is not changed.
            batches: of train data.

        Raises:
            CompressError: there is no batch.
        """
        inputs = list(islice(network_inputs(module, batches, finite=True), self.batches))
        if not inputs:
            raise CompressError("OutputError: there is no train batch to measure errors on; check the train dataloader")
        net, space = network(module), budget.space
        errors: dict[int, list[float]] = {}
        for callback in composition.callbacks:
            own = [i for i, choice in enumerate(space.choices) if choice.knob in callback.knobs]
            choices = [space.choices[i] for i in own]
            found = callback.output_errors(choices, net, composition.profile, composition.example, inputs)
            errors.update(zip(own, found, strict=True))
        table = tuple(tuple(errors[i]) for i in range(len(space)))
        if not self.probes:
            return table
        return weighed(table, budget, Divergence(composition, space, module, inputs[: self.probes], self.loss))
