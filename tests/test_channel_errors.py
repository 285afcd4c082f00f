"""Output errors of pruned channels agree with a least-squares fit on the rows themselves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_compress.pruning.channel_errors import channel_errors, noise_to_signal
from lightning_compress.pruning.input_moments import Moments
from lightning_compress.surgery.graph.channels import IN, OUT, ChannelGroup, Member


def group_of(units: int, per_unit: int = 1) -> ChannelGroup:
    index = torch.arange(units * per_unit).view(units, per_unit)
    return ChannelGroup("0", units, (Member("0", OUT, index), Member("1", IN, index)))


def ridge_residual(x: torch.Tensor, weight: torch.Tensor, kept: torch.Tensor) -> float:
    """Return the relative residual of a ridge fit, from the rows and by stacking the prior as rows of its own."""
    features, rows = x.shape[1], len(x)
    scale = (x.square().sum() / rows).sqrt()
    stacked = torch.cat([x, scale * torch.eye(features, dtype=x.dtype)])
    wanted = stacked @ weight.T
    fitted = stacked[:, kept] @ torch.linalg.lstsq(stacked[:, kept], wanted, driver="gelsd").solution
    dropped = torch.ones(features, dtype=torch.bool)
    dropped[kept] = False
    prior = scale.square() * weight[:, dropped].square().sum()
    return float(((wanted - fitted).square().sum() - prior) / (x @ weight.T).square().sum())


@given(st.integers(2, 6), st.integers(1, 2), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_every_count_has_the_error_of_a_least_squares_fit(units, per_unit, outputs, seed):
    generator = torch.Generator().manual_seed(seed)
    width = units * per_unit
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    x = torch.randn(60, width, generator=generator, dtype=torch.float64) @ mixing
    net = nn.Sequential(nn.Linear(3, width), nn.Linear(width, outputs)).double()
    order = torch.randperm(units, generator=generator)
    moments = {"1": Moments(x.T @ x, None, len(x))}
    found = channel_errors(group_of(units, per_unit), net, moments, order)
    weight = net[1].weight.detach()
    for k in range(1, units + 1):
        kept = group_of(units, per_unit).members[0].index[order[:k]].flatten()
        expected = noise_to_signal(torch.tensor(ridge_residual(x, weight, kept), dtype=torch.float64))
        assert found[k] == pytest.approx(expected.item(), rel=1e-6, abs=1e-7)


def test_the_error_falls_with_more_channels_and_ends_at_zero():
    torch.manual_seed(0)
    x = torch.relu(torch.randn(200, 8, dtype=torch.float64))
    net = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 5)).double()
    found = channel_errors(group_of(8), net, {"1": Moments(x.T @ x, None, len(x))}, torch.arange(8))
    assert (found.diff() <= 0).all()
    assert found[-1] == 0


def test_a_wide_layer_has_the_error_without_a_refit():
    torch.manual_seed(0)
    phi = torch.randn(50, 4, dtype=torch.float64)
    gram = phi.T @ phi
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    found = channel_errors(group_of(4), net, {"1": Moments(None, gram, 50)}, torch.tensor([2, 0, 3, 1]))
    dropped = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    expected = noise_to_signal(dropped @ gram @ dropped / gram.sum())
    assert found[2] == pytest.approx(expected.item())


def test_without_moments_each_unit_is_taken_to_give_as_much_signal():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    assert channel_errors(group_of(4), net, {}, torch.arange(4)).tolist() == pytest.approx([1e6, 3, 1, 1 / 3, 0])
