"""Check the names of metrics before anything is trained, on one batch of validation and one of test data."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from lightning_compress.core.errors import CompressError, did_you_mean
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.evaluator import held
from lightning_compress.pipeline.quiet import quiet, quiet_trainer
from lightning_compress.pipeline.seeding import seeded
from lightning_compress.pipeline.stage import Stage


def check_logged_metrics(run: RunContext, stages: Mapping[str, Stage], metric: str) -> None:
    """Raise if ``test_step`` does not log the metric, or ``validation_step`` not what a planner reads.

    Args:
        run: the module, which need not be trained and is not changed, and the data.
        stages: name -> stage.
        metric: of the test data.

    Raises:
        CompressError: a name is not logged; the message says which are.
    """
    logged = _tested(run)
    if metric not in logged:
        raise CompressError(
            f"test_step of {type(run.dense).__name__} logs {sorted(logged)}, not {metric!r}"
            f"{did_you_mean(metric, logged)}; set metric"
        )
    planners = {name: stage.planner for name, stage in stages.items() if stage.planner is not None}
    if any(planner.reads_scores for planner in planners.values()):
        validated = _validated(run)
        for name, planner in planners.items():
            planner.check_metrics(name, validated, run.dense_profile)


def _tested(run: RunContext) -> dict[str, float]:
    with seeded(run.seed), quiet():
        trainer = quiet_trainer(run.scoring_device, limit_test_batches=1)
        return dict(trainer.test(copy.deepcopy(run.dense), datamodule=run.data, verbose=False)[0])


def _validated(run: RunContext) -> dict[str, float]:
    """Return the metrics as the evaluator of candidates gets them."""
    validation = run.loaders()[1]
    with seeded(run.seed, validation), quiet():
        trainer = quiet_trainer(run.scoring_device)
        trainer.validate(copy.deepcopy(run.dense), held(validation, 1), verbose=False)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}
