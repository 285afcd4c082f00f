"""The criteria's contract, collected from conf/, and reference values by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

import lightning_compress.conf
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.errors import CompressError
from lightning_compress.pruning.criteria.bn_scale import BNScale
from lightning_compress.pruning.criteria.l1 import L1
from lightning_compress.pruning.criteria.l2 import L2
from lightning_compress.pruning.criteria.random import Random
from lightning_compress.pruning.criteria.taylor import Taylor
from lightning_compress.surgery.graph.channels import IN, OUT, ChannelGroup, Member
from lightning_compress.testing.criteria import CriterionContract

FILES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "criterion").glob("*.yaml"))


class TestContract(CriterionContract):
    @pytest.fixture(params=FILES, ids=lambda file: file.stem)
    def criterion(self, request):
        return instantiate(OmegaConf.load(request.param))


@pytest.fixture
def pair():
    """Two linear layers; the weight of the first is [[3, -4], [1, 0], [0, 0]]."""
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[3.0, -4.0], [1.0, 0.0], [0.0, 0.0]]))
    net[0].weight.grad = torch.tensor([[1.0, 0.5], [2.0, 9.0], [1.0, 1.0]])
    index = torch.arange(3)[:, None]
    return ChannelGroup("0", 3, (Member("0", OUT, index), Member("1", IN, index))), net


@pytest.mark.parametrize(("criterion", "raw"), [
    (L1(), [7, 1, 0]), (L2(), [5, 1, 0]), (Taylor(), [(3 - 2) ** 2, 2**2, 0]),
])  # fmt: skip
def test_reference_values(pair, criterion, raw):
    raw = torch.tensor(raw, dtype=torch.float32)
    torch.testing.assert_close(criterion(*pair), raw / raw.mean())


def test_coupled_positions_are_summed(pair):
    net = pair[1]
    group = ChannelGroup("0", 1, (Member("0", OUT, torch.tensor([[0, 2]])), Member("1", IN, torch.tensor([[0, 2]]))))
    assert L1()(group, net).shape == (1,)


def test_bn_scale_names_a_group_without_batch_norm(pair):
    with pytest.raises(CompressError, match="channels of '0' go through no batch norm"):
        BNScale()(*pair)


def test_taylor_names_a_layer_without_gradient(pair):
    pair[1][0].weight.grad = None
    with pytest.raises(CompressError, match="layer '0' has no gradient"):
        Taylor()(*pair)


def test_random_depends_on_seed_and_layer_alone(pair):
    assert torch.equal(Random(1)(*pair), Random(1)(*pair))
    assert not torch.equal(Random(1)(*pair), Random(2)(*pair))


def test_every_criterion_file_is_a_choice_of_channel_pruning():
    assert {file.stem for file in FILES} >= {"l1", "l2", "bn_scale", "taylor", "random"}
    assert ChannelPruning(criterion=L1()).criterion == L1()
