"""A search of five trials for the bits of a toy network."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.evaluation import Evaluation
from lightning_compress.pipeline.planners.search import Search
from lightning_compress.pipeline.student import Student
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.searchers.random import Random
from lightning_compress.search.searchers.searcher import Searcher
from lightning_compress.surgery import measure
from lightning_compress.testing.toys import PlainModule, ToyData

EXAMPLE = torch.zeros(2, 1, 8, 8)
COST = PackedBytes()


def run_search(
    folder: Path, *, searcher: type[Searcher] = Random, validation_batches: int | None = None, **settings: Any
) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Run it in a folder; return the point of the plan that it chose, and what it wrote.

    Args:
        folder: of the stage.
        searcher: class of the searcher.
        validation_batches: that score a candidate; None takes all.
        settings: more of :class:`Search`.
    """
    torch.manual_seed(0)
    module = PlainModule()
    profile = measure.measure(module.model, EXAMPLE)
    run = RunContext(ToyData(), module, profile, EXAMPLE, partial(Trainer, accelerator="cpu"), folder.parent, 0)
    planner = Search(
        cost=COST,
        budget=0.3,
        searcher=searcher,
        trials=5,
        objective=AccuracyUnderBudget(),
        evaluation=Evaluation(recalibration_batches=1, validation_batches=validation_batches),
        **settings,
    )
    bits = QuantizationAwareTraining(weight_bits=(2, 4, 8), act_bits=(8,))
    composition = Composition([bits], module.model, EXAMPLE)
    plan = planner.make_plan(composition, Student(copy.deepcopy(module)), run, folder).plan
    return composition.space().indices(plan), json.loads((folder / "search.json").read_text())
