"""Weights of choices in the closed-form planner: what the outputs of the network make of each choice's error."""

from __future__ import annotations

import copy
from math import log, sqrt

import pytest
import torch
from torch import nn

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.planners.choice_weights import choice_weights
from lightning_compress.pipeline.planners.output_error import OutputError
from lightning_compress.pruning.reconstruction.symmetric import Symmetric
from lightning_compress.testing.toys import PlainModule, ToyData

EXAMPLE = torch.rand(2, 1, 8, 8)


@pytest.fixture
def composed():
    torch.manual_seed(0)
    module = PlainModule().eval()
    callback = ChannelPruning(refit=Symmetric())
    callback.calibrate(module, ToyData().train_dataloader())
    composition = Composition([callback], module.model, EXAMPLE)
    return module, composition, composition.space()


def probabilities(net: nn.Module, inputs: list[torch.Tensor]) -> list[list[float]]:
    with torch.no_grad():
        return [row.double().exp().div(row.double().exp().sum()).tolist() for x in inputs for row in net.eval()(x)]


def test_weights_are_roots_of_divergence_over_error(composed):
    module, composition, space = composed
    inputs = [torch.rand(6, 1, 8, 8), torch.rand(6, 1, 8, 8)]
    errors = [
        [1.0 + i + 3 * (len(c.values) - 1 - j) for j in range(len(c.values))] for i, c in enumerate(space.choices)
    ]
    before = {key: value.clone() for key, value in module.state_dict().items()}
    found = choice_weights(errors, composition, space, module, inputs)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    dense = probabilities(copy.deepcopy(module.model), inputs)
    for choice, own, weight in zip(space.choices, errors, found, strict=True):
        middle = min(choice.values, key=lambda value: abs(value - 0.5))
        changed = copy.deepcopy(module.model)
        composition.apply(changed, Plan({choice.layer: {choice.knob: middle}}))
        norms = [m for m in changed.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # plain averages
        changed.train()
        with torch.no_grad():
            for x in inputs:
                changed(x)
        other = probabilities(changed, inputs)
        pairs = [(p, q) for a, b in zip(dense, other, strict=True) for p, q in zip(a, b, strict=True)]
        divergence = sum(p * log(p / q) for p, q in pairs) / len(dense)
        assert weight == pytest.approx(sqrt(divergence / own[choice.values.index(middle)]), rel=1e-3)


def test_a_choice_whose_middle_value_costs_nothing_keeps_its_weight(composed):
    module, composition, space = composed
    errors = [[0.0] * len(choice.values) for choice in space.choices]
    assert choice_weights(errors, composition, space, module, [EXAMPLE]) == [1.0] * len(space)


def test_probes_weigh_the_errors_of_the_planner(composed):
    module, composition, space = composed
    batches = list(ToyData().train_dataloader())
    plain, probed = (
        OutputError(cost=MACs(), budget=0.5, batches=2, probes=probes).errors(composition, space, module, batches)
        for probes in (0, 2)
    )
    weights = [sum(b) / sum(a) for a, b in zip(plain, probed, strict=True)]
    assert max(weights) > 1.01 * min(weights)
    for a, b, weight in zip(plain, probed, weights, strict=True):
        assert b == pytest.approx([weight * error for error in a])


def test_what_gives_no_class_scores_is_refused(composed):
    module, composition, space = composed
    module.model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3))
    errors = [[2.0, 1.0] for _ in space.choices]
    with pytest.raises(CompressError, match=r"the shape \(2, 2, 4, 4\); set probes=0"):
        choice_weights(errors, composition, space, module, [EXAMPLE])


def test_probes_are_counted_from_0():
    with pytest.raises(CompressError, match="probes must be 0 or more, got -1"):
        OutputError(cost=MACs(), budget=0.5, probes=-1)
