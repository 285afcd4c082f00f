"""Factors of single layers against independent formulas."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.low_rank import LowRank
from lightning_compress.surgery import measure
from lightning_compress.surgery.low_rank.svd import SVD
from lightning_compress.surgery.low_rank.tucker import Tucker2
from lightning_compress.surgery.structure import network
from lightning_compress.testing.toys import PlainModule

LAYERS = {
    "3x3": (nn.Conv2d(6, 10, 3, padding=1), (2, 6, 9, 9)),
    "strided": (nn.Conv2d(6, 10, (3, 5), stride=2, padding=(1, 2), dilation=2), (2, 6, 19, 19)),
    "reflect": (nn.Conv2d(6, 10, 3, padding="same", padding_mode="reflect", bias=False), (2, 6, 9, 9)),
    "wide": (nn.Conv2d(2, 40, 3, padding=1), (2, 2, 9, 9)),
    "1d": (nn.Conv1d(6, 10, 3), (2, 6, 9)),
    "1x1": (nn.Conv2d(6, 10, 1, stride=2, padding=1), (2, 6, 9, 9)),
    "linear": (nn.Linear(12, 7), (2, 12)),
    "tokens": (nn.Linear(7, 12, bias=False), (2, 5, 7)),
}


def kind_of(layer: nn.Module) -> type:
    return Tucker2 if layer.weight.dim() > 2 and layer.weight[0, 0].numel() > 1 else SVD


def factorized(layer: nn.Module, refinements: int = 0, **ranks: int) -> nn.Module:
    kind = kind_of(layer)
    new = kind.like(layer, **ranks)
    new.fill(kind.weights(kind.decompose(layer.weight), layer.weight, refinements, **ranks), layer.bias)
    return new


def weight_of(layer: nn.Module, factors: nn.Module) -> torch.Tensor:
    """Return the weight that a chain of factors stands for, multiplied out."""
    weights = [factor.weight.detach().flatten(2) if factor.weight.dim() > 2 else factor.weight for factor in factors]
    if isinstance(factors, SVD):
        first, second = (w.detach().flatten(1) for w in weights)
        return (second @ first).reshape(layer.weight.shape)
    inputs, core, outputs = weights
    return torch.einsum("np,pqk,qc->nck", outputs[..., 0], core, inputs[..., 0]).reshape(layer.weight.shape)


@pytest.mark.parametrize("name", LAYERS)
def test_full_rank_is_the_layer_itself(name):
    layer, shape = LAYERS[name]
    kind, profile = kind_of(layer), measure.measure(nn.Sequential(layer), torch.zeros(shape))
    x = torch.randn(shape)
    torch.testing.assert_close(factorized(layer, **kind.full(profile["0"]))(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_profiles_of_the_factors_are_those_that_are_measured(name):
    layer, shape = LAYERS[name]
    kind = kind_of(layer)
    ranks = dict.fromkeys(kind.knobs, 2)
    dense = measure.measure(nn.Sequential(layer), torch.zeros(shape))
    expected = {p.name: p for p in kind.profiles(dense["0"], **ranks)}
    assert expected == dict(measure.measure(nn.Sequential(factorized(layer, **ranks)), torch.zeros(shape)).layers)


@pytest.mark.parametrize(("before", "after"), [(3, 4), (6, 2), (1, 1), (6, 10)])
def test_tucker_is_the_higher_order_svd(before, after):
    weight = torch.randn(10, 6, 3, 3)
    layer = nn.Conv2d(6, 10, 3)
    layer.weight.data = weight
    w = weight.double().numpy()
    a = np.linalg.svd(w.reshape(10, -1))[0][:, :after]
    b = np.linalg.svd(w.transpose(1, 0, 2, 3).reshape(6, -1))[0][:, :before]
    core = np.einsum("ncij,np,cq->pqij", w, a, b)
    expected = np.einsum("pqij,np,cq->ncij", core, a, b)
    found = weight_of(layer, factorized(layer, rank_in=before, rank_out=after))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_refinement_brings_tucker_nearer_and_ends_where_it_cannot_get_better():
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 10, 3)
    errors = [
        float((weight_of(layer, factorized(layer, sweeps, rank_in=2, rank_out=3)) - layer.weight).norm())
        for sweeps in (0, 1, 20, 21)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[3] == pytest.approx(errors[2], rel=1e-4)


@pytest.mark.parametrize("name", ["linear", "1x1"])
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_svd_has_the_error_of_eckart_and_young(name, rank):
    layer = LAYERS[name][0]
    values = np.linalg.svd(layer.weight.detach().flatten(1).numpy(), compute_uv=False)
    error = (weight_of(layer, factorized(layer, rank_out=rank)) - layer.weight).norm()
    assert float(error) == pytest.approx(float(np.sqrt((values[rank:] ** 2).sum())), rel=1e-4)


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_svd_of_a_matrix_of_lower_rank_is_exact(scale):
    torch.manual_seed(0)
    layer = nn.Linear(32, 32)
    layer.weight.data = scale * torch.randn(32, 2) @ torch.randn(2, 32)  # with the noise of rounding to float32
    error = (weight_of(layer, factorized(layer, rank_out=8)) - layer.weight).norm()
    assert float(error.detach()) < 1e-6 * float(layer.weight.detach().norm())


@pytest.mark.parametrize("flags", [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("name", ["3x3", "linear", "tokens"])
def test_factors_are_frozen_as_the_weight_is_and_their_bias_as_the_bias_is(name, flags):
    layer = copy.deepcopy(LAYERS[name][0])
    layer.weight.requires_grad_(flags[0])
    if layer.bias is not None:
        layer.bias.requires_grad_(flags[1])
    factors = factorized(layer, **dict.fromkeys(kind_of(layer).knobs, 2))
    assert {factor.weight.requires_grad for factor in factors} == {flags[0]}
    assert factors.bias is None or factors.bias.requires_grad == flags[1]


@pytest.mark.parametrize("name", LAYERS)
def test_factors_show_the_weight_and_bias_of_one_layer_to_a_forward_that_reads_them(name):
    layer = LAYERS[name][0]
    factors = factorized(layer, **dict.fromkeys(kind_of(layer).knobs, 2))
    torch.testing.assert_close(factors.weight, weight_of(layer, factors))
    assert factors.bias is None if layer.bias is None else torch.equal(factors.bias, layer.bias)


def test_factors_of_a_weight_of_zeros_can_be_trained():
    layer = nn.Linear(8, 6)
    nn.init.zeros_(layer.weight)  # as LoRA's second matrix starts
    factors = factorized(layer, rank_out=2)
    assert not factors.weight.any()
    (factors(torch.randn(4, 8)) - 1).square().sum().backward()
    assert factors[1].weight.grad.any()


def test_factors_are_not_those_of_a_layer_that_pruning_has_changed():
    module = PlainModule()
    LowRank().calibrate(module, ())
    net = network(module)
    ChannelPruning({"conv1": {"channels": 0.5}}).apply(net, torch.zeros(2, 1, 8, 8))
    weight = net.conv1.weight.detach().clone()
    LowRank({"conv1": {"rank_in": 0.5, "rank_out": 0.25}}).apply(net, torch.zeros(2, 1, 8, 8))
    layer = nn.Conv2d(8, 8, 3)
    layer.weight.data = weight
    expected = weight_of(layer, factorized(layer, rank_in=4, rank_out=2))
    torch.testing.assert_close(weight_of(layer, net.conv1), expected)
