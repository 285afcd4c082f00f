"""The genetic choice of channels: on Gram matrices of a toy network, against greedy, magnitude and brute force."""

from __future__ import annotations

from itertools import combinations, islice

import pytest
import torch

from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.pruning.criteria.genetic import Genetic
from lightning_compress.pruning.criteria.gram import Gram, unit_gram
from lightning_compress.pruning.criteria.l2 import L2
from lightning_compress.pruning.input_moments import removal_error
from lightning_compress.surgery import measure
from lightning_compress.surgery.graph.trace_channels import trace_channels
from lightning_compress.surgery.structure import network
from lightning_compress.testing.toys import PlainModule, toy_data

EXAMPLE = torch.zeros(2, 1, 8, 8)


@pytest.fixture(scope="module")
def gathered_toy():
    """Return a toy network with its moments gathered, and its groups."""
    torch.manual_seed(0)
    module = PlainModule()
    Genetic().gather(module, islice(toy_data(0)[0], 4))
    net = module.model
    return net, trace_channels(net, measure.measure(net, EXAMPLE), EXAMPLE).groups


def error(group, net, kept) -> float:
    dropped = torch.ones(group.units, dtype=torch.float64)
    dropped[kept] = 0
    return float(removal_error(unit_gram(group, net), dropped))


@pytest.mark.parametrize("name", ["stem.0", "conv1"])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_never_worse_than_greedy_and_magnitude(gathered_toy, name, share):
    net, groups = gathered_toy
    group, count = groups[name], round(share * groups[name].units)
    kept = Genetic().kept(group, net, count)
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert len(kept) == count
    best = error(group, net, kept)
    for other in (Gram(), L2()):
        assert best <= error(group, net, other.kept(group, net, count)) * (1 + 1e-9)


def test_the_best_of_all_sets_of_a_small_group(gathered_toy):
    net, groups = gathered_toy
    group = groups["stem.0"]
    best = min(error(group, net, list(kept)) for kept in combinations(range(group.units), 4))
    assert error(group, net, Genetic().kept(group, net, 4)) == pytest.approx(best, rel=1e-9)


def test_depends_on_its_seed_and_on_no_global_random_numbers(gathered_toy):
    net, groups = gathered_toy
    group, state = groups["conv1"], torch.get_rng_state()
    first = Genetic(generations=2).kept(group, net, 8)
    torch.manual_seed(5)
    assert torch.equal(first, Genetic(generations=2).kept(group, net, 8))
    torch.set_rng_state(state)


def test_channel_pruning_keeps_the_channels_that_were_chosen():
    torch.manual_seed(0)
    module = PlainModule()
    callback = ChannelPruning({"conv1": {"channels": 0.5}}, Genetic(), batches=2)
    callback.calibrate(module, toy_data(0)[0])
    net = network(module)
    group = trace_channels(net, measure.measure(net, EXAMPLE), EXAMPLE).groups["conv1"]
    kept = Genetic().kept(group, net, 8)
    weight = net.conv1.weight.detach()[kept].clone()
    callback.apply(net, EXAMPLE)
    assert torch.equal(net.conv1.weight, weight)


def test_a_later_plan_may_add_groups_and_nothing_else():
    torch.manual_seed(0)
    net, whole = PlainModule().model, PlainModule().model
    whole.load_state_dict(net.state_dict())
    both = Plan({"stem.0": {"channels": 0.5}, "conv1": {"channels": 0.3}})
    ChannelPruning({"stem.0": {"channels": 0.5}}).apply(net, EXAMPLE)
    ChannelPruning(both).apply(net, EXAMPLE)
    ChannelPruning(both).apply(net, EXAMPLE)  # once is enough
    ChannelPruning(both).apply(whole, EXAMPLE)
    assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in whole.state_dict().items()}
    for changed in ({"conv1": {"channels": 0.3}}, {"stem.0": {"channels": 0.25}, "conv1": {"channels": 0.3}}):
        with pytest.raises(CompressError, match="another plan was already applied"):
            ChannelPruning(changed).apply(net, EXAMPLE)
