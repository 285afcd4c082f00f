"""Contract suite of channel criteria. Subclass it, and give the fixture ``criterion``."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, fields
from itertools import islice

import pytest
import torch
from torch import nn

from lightning_compress.pruning.criteria.criterion import Criterion
from lightning_compress.pruning.noise.information import InformationNoise
from lightning_compress.pruning.noise.log_normal import LogNormalNoise
from lightning_compress.surgery import measure
from lightning_compress.surgery.graph.channels import ChannelGroup
from lightning_compress.surgery.graph.trace_channels import trace_channels
from lightning_compress.surgery.transforms import attach_output
from lightning_compress.testing.toys import PlainModule, toy_data


class CriterionContract:
    """Shape, purity, plain data."""

    @pytest.fixture
    def criterion(self) -> Criterion:
        """Return the criterion under test."""
        raise NotImplementedError

    @pytest.fixture
    def scored(self, criterion) -> tuple[ChannelGroup, nn.Module]:
        """Return a group that goes through a batch norm, and its network, with all that criteria need."""
        torch.manual_seed(0)
        module, example = PlainModule(), torch.randn(4, 1, 8, 8)
        net = module.model
        graph = trace_channels(net, measure.measure(net, example), example)
        criterion.gather(module, islice(toy_data(0)[0], 2))
        attach_output(net.conv1, InformationNoise(net.conv1.weight.shape))
        attach_output(net.bn1, LogNormalNoise(16))
        for noise in (net.conv1.output_transform, net.bn1.output_transform):
            noise.ended.fill_(True)
        return graph.groups["conv1"], net

    def test_one_finite_score_of_zero_or_more_for_each_unit(self, criterion, scored) -> None:
        scores = criterion(*scored)
        assert scores.shape == (scored[0].units,)
        assert scores.isfinite().all()
        assert (scores >= 0).all()
        assert not scores.requires_grad

    def test_network_and_random_numbers_stay_as_they_were(self, criterion, scored) -> None:
        group, net = scored
        before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
        criterion(group, net)
        assert torch.equal(state, torch.get_rng_state())
        assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())

    def test_the_same_scores_again(self, criterion, scored) -> None:
        assert torch.equal(criterion(*scored), criterion(*scored))

    def test_frozen_picklable_and_equal_when_made_again(self, criterion) -> None:
        assert pickle.loads(pickle.dumps(criterion)) == criterion
        for field in fields(criterion):
            with pytest.raises(FrozenInstanceError):
                setattr(criterion, field.name, None)
