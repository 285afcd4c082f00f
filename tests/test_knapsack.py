"""Bits by the squared error of the weights: against all plans of a small space, one by one."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.budget import Budget
from lightning_compress.core.costs.bit_operations import BitOperations
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.costs.weight_bits import WeightBits
from lightning_compress.core.errors import CompressError, InfeasibleBudgetError
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.planners.knapsack import Knapsack
from lightning_compress.quantization.coders.range_coded import RangeCoded
from lightning_compress.quantization.quantizers.lsq import LSQ
from lightning_compress.quantization.quantizers.min_max import MinMax
from lightning_compress.testing.toys import ToyNet

EXAMPLE = torch.zeros(2, 1, 8, 8)


def problem(cost, share: float, quantizer=MinMax, act_bits=(4, 8)) -> tuple[Composition, Budget]:
    torch.manual_seed(0)
    net = ToyNet()
    with torch.no_grad():
        net.conv1.weight.mul_(torch.randn_like(net.conv1.weight).exp())  # long tails, so that layers differ
    callback = QuantizationAwareTraining(
        weight_quantizer=quantizer, per_channel=False, weight_bits=(2, 3, 5), act_bits=act_bits
    )
    composition = Composition([callback], net, EXAMPLE)
    space = composition.space()
    least, most = (cost(composition.predict(space.plan(point))) for point in (space.smallest, space.largest))
    return composition, Budget(lambda plan: cost(composition.predict(plan)), least + share * (most - least), space)


@torch.no_grad()
def total_error(net: ToyNet, bits: dict[str, int], quantizer) -> float:
    found = 0.0
    for layer, width in bits.items():
        weight = net.get_submodule(layer).weight.detach()
        made = quantizer(width, ())
        made.initialize(weight)
        found += float((made(weight) - weight).double().square().sum())
    return found


class Milliseconds(WeightBits):
    """Costs that are no whole numbers, and small ones."""

    def __call__(self, profile) -> float:
        return 0.1 + 3e-6 * super().__call__(profile)


@pytest.mark.parametrize("cost", [WeightBits(), PackedBytes(), Milliseconds()], ids=["bits", "bytes", "milliseconds"])
@pytest.mark.parametrize("quantizer", [MinMax, LSQ])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 1.0])
def test_no_plan_that_fits_has_less_error(cost, quantizer, share):
    composition, budget = problem(cost, share, quantizer, (8,))
    plan = Knapsack.allocate(composition, budget)
    assert budget.meets(plan)
    layers = list(plan.knob("weight_bits"))
    every = [dict(zip(layers, widths, strict=True)) for widths in product((2, 3, 5), repeat=len(layers))]
    fitting = [
        bits for bits in every if budget.meets(plan.merge(Plan({n: {"weight_bits": b} for n, b in bits.items()})))
    ]
    best = min(total_error(composition.net, bits, quantizer) for bits in fitting)
    assert total_error(composition.net, plan.knob("weight_bits"), quantizer) == pytest.approx(best)


def test_other_knobs_take_their_largest_values():
    composition, budget = problem(WeightBits(), 0.7)
    assert set(Knapsack.allocate(composition, budget).knob("act_bits").values()) == {8}


def test_the_network_and_random_numbers_stay_as_they_were():
    composition, budget = problem(WeightBits(), 0.7)
    before, state = copy.deepcopy(composition.net.state_dict()), torch.get_rng_state()
    Knapsack.allocate(composition, budget)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in composition.net.state_dict().items())


def test_a_budget_that_only_fewer_input_bits_would_meet_is_refused():
    with pytest.raises(InfeasibleBudgetError, match="cannot be met"):
        Knapsack.allocate(*problem(BitOperations(), 0.1))


def test_without_weight_bits_it_is_refused():
    net = ToyNet()
    composition = Composition([ChannelPruning()], net, EXAMPLE)
    budget = Budget(lambda plan: 0.0, 1.0, composition.space())
    with pytest.raises(CompressError, match="no layer has weight_bits to choose"):
        Knapsack.allocate(composition, budget)


def test_the_option_reaches_the_stage():
    with initialize_config_module("lightning_compress.conf", version_base="1.3"):
        config = compose(overrides=["+compress=knapsack_quant"])
    stage = instantiate(config.compress.stages, _convert_="object")["quantize"]
    assert stage.planner == Knapsack(cost=PackedBytes(RangeCoded()), budget=0.12)
