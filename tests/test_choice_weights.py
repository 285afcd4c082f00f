"""Weights of choices in the closed-form planner: what the outputs of the network make of each choice's error."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import inf, log
from statistics import geometric_mean

import pytest
import torch
from torch import nn

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.budget import Budget
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.core.space import Choice, Space
from lightning_compress.distillation.hinton import Hinton
from lightning_compress.distillation.logit_mse import LogitMSE
from lightning_compress.pipeline.planners import choice_weights as choice_weights_file
from lightning_compress.pipeline.planners.choice_weights import choice_weights, weighed
from lightning_compress.pipeline.planners.divergence import Divergence
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


def averaged(net: nn.Module, inputs: list[torch.Tensor]) -> None:
    for norm in [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]:
        norm.reset_running_stats()
        norm.momentum = None  # plain averages
    net.train()
    with torch.no_grad():
        for x in inputs:
            net(x)


def test_weights_are_divergence_over_error(composed):
    module, composition, space = composed
    inputs = [torch.rand(6, 1, 8, 8), torch.rand(6, 1, 8, 8)]
    errors = [
        [1.0 + i + 3 * (len(c.values) - 1 - j) for j in range(len(c.values))] for i, c in enumerate(space.choices)
    ]
    before = {key: value.clone() for key, value in module.state_dict().items()}
    found = choice_weights(errors, Divergence(composition, space, module, inputs, Hinton()))
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    dense_net = copy.deepcopy(module.model)
    averaged(dense_net, inputs)
    dense, ratios = probabilities(dense_net, inputs), []
    for choice, own in zip(space.choices, errors, strict=True):
        middle = min(choice.values, key=lambda value: abs(value - 0.5))
        changed = copy.deepcopy(module.model)
        composition.apply(changed, Plan({choice.layer: {choice.knob: middle}}))
        averaged(changed, inputs)
        other = probabilities(changed, inputs)
        pairs = [(p, q) for a, b in zip(dense, other, strict=True) for p, q in zip(a, b, strict=True)]
        divergence = sum(p * log(p / q) for p, q in pairs) / len(dense)
        ratios.append(divergence / own[choice.values.index(middle)])
    assert found == [pytest.approx(ratio / geometric_mean(ratios), rel=1e-3) for ratio in ratios]


def test_the_dense_plan_does_not_diverge(composed):
    module, composition, space = composed
    assert Divergence(composition, space, module, [torch.rand(6, 1, 8, 8)], Hinton())(space.largest) == pytest.approx(
        0, abs=1e-6
    )


def test_no_choice_is_free_and_none_breaks_the_scale(composed):
    _, _, space = composed
    three = Space((*space.choices, Choice("free", "x", (1, 2, 3)), Choice("broken", "x", (1, 2, 3))))
    errors, largest = [[1.0 / (1 + i) for i in range(len(c.values))] for c in three.choices], three.largest
    middles = [min(range(len(c.values)), key=lambda i, c=c: abs(c.values[i] - c.values[-1] / 2)) for c in three.choices]
    alone = [(*largest[:i], middle, *largest[i + 1 :]) for i, middle in enumerate(middles)]
    wanted = [2.0, 8.0, 0.0, inf]
    known = {point: ratio * own[m] for point, ratio, own, m in zip(alone, wanted, errors, middles, strict=True)}
    assert choice_weights(errors, Known(three, known)) == pytest.approx([0.5, 2.0, 0.5, 2.0])


def test_a_choice_whose_middle_value_costs_nothing_keeps_its_weight(composed):
    module, composition, space = composed
    errors = [[0.0] * len(choice.values) for choice in space.choices]
    assert choice_weights(errors, Divergence(composition, space, module, [EXAMPLE], Hinton())) == [1.0] * len(space)


@dataclass(frozen=True)
class Known:
    """A divergence that is a table."""

    space: Space
    found: dict[tuple[int, ...], float]

    def __call__(self, point: tuple[int, ...]) -> float:
        return self.found[point]


@pytest.mark.parametrize(("as_they_are", "power"), [(1.0, 0), (3.0, 0.25)])
def test_the_power_is_taken_whose_plan_diverges_least(as_they_are, power):
    space = Space((Choice("a", "x", (1, 2, 3)), Choice("b", "x", (1, 2, 3)), Choice("free", "x", (1, 2))))
    budget = Budget(lambda plan: sum(1 + index for index in space.indices(plan)), 5, space)
    errors = ((1.2, 0.5, 0.0), (1.0, 0.6, 0.0), (0.0, 0.0))
    # Alone, lowering b does more than its error says: ratios 0.1 and 4. As errors are, b is lowered; with weights, a.
    known = Known(space, {(0, 2, 1): 0.12, (2, 0, 1): 4.0, (2, 0, 0): as_they_are, (0, 2, 0): 2.0})
    weights = (0.1 / 0.4**0.5, 4 / 0.4**0.5, 1)
    expected = [[weight**power * error for error in own] for weight, own in zip(weights, errors, strict=True)]
    assert [list(own) for own in weighed(errors, budget, known)] == [pytest.approx(own) for own in expected]


def test_probes_weigh_the_errors_of_the_planner(composed, monkeypatch):
    module, composition, space = composed
    monkeypatch.setattr(choice_weights_file, "POWERS", (1.0,))
    batches = list(ToyData().train_dataloader())
    cost, profile = MACs(), composition.profile
    budget = Budget(lambda plan: cost(composition.predict(plan)), 0.5 * cost(profile), space)
    plain, probed = (
        OutputError(cost=cost, budget=0.5, batches=2, probes=probes).errors(composition, budget, module, batches)
        for probes in (0, 2)
    )
    weights = [sum(b) / sum(a) for a, b in zip(plain, probed, strict=True)]
    assert max(weights) > 1.01 * min(weights)
    for a, b, weight in zip(plain, probed, weights, strict=True):
        assert b == pytest.approx([weight * error for error in a])


def test_outputs_that_are_no_class_scores_diverge_by_their_relative_error(composed):
    module, composition, space = composed
    inputs = [torch.rand(6, 1, 8, 8), torch.rand(3, 1, 8, 8)]

    def outputs(net: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([net.eval()(x) for x in inputs])[:, :1]

    point = space.smallest
    changed = copy.deepcopy(module.model)
    composition.apply(changed, space.plan(point))
    averaged(changed, inputs)
    dense_net = copy.deepcopy(module.model)
    averaged(dense_net, inputs)
    dense, thin = outputs(dense_net), outputs(changed)
    module.model.fc.register_forward_hook(lambda *call: call[-1][:, :1])
    expected = float((thin - dense).square().sum() / dense.square().sum())
    assert Divergence(composition, space, module, inputs, Hinton())(point) == pytest.approx(expected, rel=1e-3)


def test_what_all_outputs_share_counts_where_they_are_no_class_scores(composed):
    module, composition, space = composed
    inputs = [torch.rand(6, 1, 8, 8), torch.rand(3, 1, 8, 8)]
    module.model.fc.register_forward_hook(lambda _m, _args, y: y + 1000 * y[:, :1])
    as_scores, as_numbers, without = (
        Divergence(composition, space, module, inputs, loss)(space.smallest) for loss in (Hinton(), LogitMSE(), None)
    )
    assert as_numbers > 100 * as_scores
    assert 0 < without < as_numbers


class Detector(nn.Module):
    """Gives as many boxes as it finds."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.net(x)
        return {"labels": scores.argmax(1), "boxes": scores[scores[:, 0] > scores[0, 0]]}


def test_outputs_that_cannot_be_compared_leave_errors_as_they_are(composed):
    module, _, _ = composed
    module.model = Detector(module.model)
    callback = ChannelPruning()
    composition = Composition([callback], module.model, EXAMPLE)
    space, inputs = composition.space(), [torch.rand(64, 1, 8, 8), torch.rand(64, 1, 8, 8)]
    divergence = Divergence(composition, space, module, inputs, Hinton())
    assert divergence(space.smallest) == inf  # other boxes are found
    assert choice_weights([[1.0] * len(choice.values) for choice in space.choices], divergence) == [1.0, 1.0]


@pytest.mark.parametrize("probes", [-1, 5, 2.5, None])
def test_probes_are_a_part_of_the_batches(probes):
    with pytest.raises(CompressError, match=rf"probes must be a whole number from 0 to batches=4.* got {probes}"):
        OutputError(cost=MACs(), budget=0.5, probes=probes)


def test_errors_need_a_batch():
    with pytest.raises(CompressError, match="batches must be a whole number of 1 or more, got 0"):
        OutputError(cost=MACs(), budget=0.5, batches=0)
