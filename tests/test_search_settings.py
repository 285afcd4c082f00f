"""What a search refuses before anything is measured or trained."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from lightning import Trainer
from test_ways import made

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.errors import CompressError, NoEffectError
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.student import Student
from lightning_compress.surgery import measure
from lightning_compress.testing.toys import PlainModule, ToyData

EXAMPLE = torch.zeros(2, 1, 8, 8)


class Endless(PlainModule):
    """Its validation loss is infinite."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_loss", torch.tensor(torch.inf))


@pytest.mark.parametrize("executor", ["process", "ray"])
@pytest.mark.parametrize(("in_flight", "workers", "refused"), [(2, 3, True), (3, 3, False), (4, 3, False)])
def test_more_workers_than_open_trials_are_refused(executor, in_flight, workers, refused):
    given = [f"compress/executor={executor}", f"compress.executor.workers={workers}"]
    stage = made("drl_prune", *given, f"compress.stages.prune.planner.in_flight={in_flight}")["prune"]
    if not refused:
        stage.check("prune")
        return
    with pytest.raises(CompressError, match="set in_flight to 3 or more"):
        stage.check("prune")


@pytest.mark.parametrize(
    ("searcher", "setting", "message"),
    [
        ("genecai", "compress.searcher.population=0", "stage prune: GeneCAI: population must be 1 or more, got 0"),
        ("nsga2", "compress.searcher.population=1", "stage prune: NSGA2: population must be 2 or more, got 1"),
        ("genecai", "compress.searcher.elite=0.5", "stage prune: GeneCAI: elite must be a whole number, 0 or more"),
        ("ddpg", "compress.searcher.elite=2.5", "stage prune: DDPG: elite must be a whole number, 1 or more, got 2.5"),
        ("ddpg", "compress.searcher.tau=2", "stage prune: DDPG: tau must be at most 1, got 2"),
        ("reinforce", "compress.searcher.rollouts=2.5", "stage prune: Reinforce: rollouts must be a whole number"),
        ("surrogate", "compress.searcher.warmup=1.5", "stage prune: Surrogate: warmup must be a whole number"),
        ("ddpg", "compress.searcher.sigma=-1", "stage prune: DDPG: sigma must be at least 0, got -1"),
        ("greedy", "+compress.searcher.sigma=1", "stage prune: .*unexpected keyword argument 'sigma'"),
    ],
)
def test_what_a_searcher_refuses_is_told_before_anything_is_scored(searcher, setting, message):
    key, _, value = setting.partition("=")
    stage = made("drl_prune", f"compress/searcher={searcher}", f"++{key.lstrip('+')}={value}")["prune"]
    with pytest.raises(CompressError, match=message):
        stage.check("prune")


def test_a_policy_that_is_not_there_is_told_before_anything_is_scored(tmp_path):
    stage = made("drl_prune", "++compress.searcher.warm_start=nothere")["prune"]
    stage.check("prune")  # a search that is resumed has kept it
    with pytest.raises(CompressError, match="stage prune: warm_start: there is no policy 'nothere'"):
        stage.planner.check_starts(tmp_path / "prune")


def test_halving_that_lets_all_climb_is_refused():
    stage = made("drl_prune", "+compress/halving=thirds")["prune"]
    with pytest.raises(NoEffectError, match="set the stage's in_flight to 9"):
        stage.check("prune")


def test_a_network_whose_metrics_are_not_finite_is_refused(tmp_path):
    stage = made("drl_prune")["prune"]
    module = Endless()
    run = RunContext(
        ToyData(),
        module,
        measure.measure(module.model, EXAMPLE),
        EXAMPLE,
        partial(Trainer, accelerator="cpu"),
        tmp_path,
        0,
    )
    composition = Composition(list(stage.callbacks.values()), module.model, EXAMPLE)
    with pytest.raises(CompressError, match=r"before anything is compressed, the network has \{'val_loss': inf\}"):
        stage.planner.evaluator(composition, Student(copy.deepcopy(module)), run)
