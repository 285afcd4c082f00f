"""Every searcher on a space of mixed knobs, with real callbacks and the cost of the packed file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

import lightning_compress.conf
from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.budget import Budget
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.search.objectives.objective import AccuracyUnderBudget
from lightning_compress.search.problem import Problem
from lightning_compress.search.trial import Score
from lightning_compress.testing.toys import ToyNet

FILES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "searcher").glob("*.yaml"))


@pytest.mark.parametrize("share", [0.4, 1.0])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_proposal_meets_the_budget_as_it_is_resolved(file, share):
    composition = Composition([ChannelPruning(), QuantizationAwareTraining()], ToyNet(), torch.zeros(2, 1, 8, 8))
    space, cost = composition.space(), PackedBytes()
    assert {choice.knob for choice in space.choices} == {"channels", "weight_bits", "act_bits"}
    dense = cost(composition.predict(space.plan(space.largest)))
    budget = Budget(lambda plan: cost(composition.predict(plan)), share * dense, space)
    problem = Problem(budget, composition.profile, composition.predict)
    searcher = instantiate(OmegaConf.load(file))(problem=problem, seed=0, objective=AccuracyUnderBudget(weight=0))
    top = sum(space.largest)
    for _ in range(45):
        trial = searcher.ask()
        assert space.indices(trial.plan) == trial.indices
        assert budget.meets(composition.resolve(trial.plan))
        searcher.tell(trial, Score({"val_acc": (sum(trial.indices) / top) ** 0.5}, {}))
