"""Check the names of metrics before anything is trained, on one batch of validation and one of test data."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from math import isfinite

from lightning_compress.core.errors import CompressError, did_you_mean
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.evaluator import held
from lightning_compress.pipeline.figures import ACCURACY, VALIDATION
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
        CompressError: a name is not logged; the message says which are. Or an accuracy is no share of one.
    """
    logged = _tested(run)
    if metric not in logged:
        raise CompressError(
            f"test_step of {type(run.dense).__name__} logs {sorted(logged)}, not {metric!r}"
            f"{did_you_mean(metric, logged)}; set metric"
        )
    if metric == ACCURACY:
        _check_share(run, "test_step", ACCURACY, logged, "metric")
    planners = {name: stage.planner for name, stage in stages.items() if stage.planner is not None}
    if any(planner.reads_scores for planner in planners.values()):
        validated = _validated(run)
        _check_share(run, "validation_step", VALIDATION, validated, "monitor and objective.metric")
        for name, planner in planners.items():
            planner.check_metrics(name, validated, run.dense_profile)


def _check_share(run: RunContext, step: str, name: str, logged: Mapping[str, float], settings: str) -> None:
    """Raise if an accuracy is no share of one, for which reports, standard errors and rewards take it by its name."""
    value = logged.get(name, 0.0)
    if not 0 <= value <= 1 and isfinite(value):
        raise CompressError(
            f"{step} of {type(run.dense).__name__} logs {name} {value:g}, which must be a share from 0 to 1; log it "
            f"so, or give it another name and set {settings} to that"
        )


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
