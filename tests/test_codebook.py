"""Codebooks: values near the weights, trained by the sum of their members' gradients, packed with their codes."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from omegaconf import OmegaConf
from sklearn.cluster import KMeans
from torch import nn

import lightning_compress as lc
import lightning_compress.conf
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.costs.weight_bits import WeightBits
from lightning_compress.core.errors import CompressError
from lightning_compress.quantization.quantizers.codebook import Codebook
from lightning_compress.quantization.quantizers.lsq import LSQ
from lightning_compress.surgery.mask import mask_of
from lightning_compress.surgery.structure import structure_of
from lightning_compress.surgery.transforms import Transform, weight_transforms
from lightning_compress.testing.toys import QUIET, PlainModule, ToyNet, toy_data

FILES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "codebook").glob("*.yaml"))
EXAMPLE = torch.zeros(2, 1, 8, 8)
LAYERS = ("stem.0", "conv1", "conv2", "fc")


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def make(request):
    return instantiate(OmegaConf.load(request.param))


def on(weight: torch.Tensor, make, bits: int) -> Codebook:
    codebook = make(bits, ())
    codebook.initialize(weight)
    return codebook


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_values_are_as_near_as_scikit_learns(make, bits):
    weight = torch.from_numpy(np.random.default_rng(0).laplace(size=(50, 40)).astype(np.float32))
    codebook = on(weight, make, bits)
    found = float((codebook(weight) - weight).detach().square().sum())
    best = KMeans(2**bits, n_init=3, random_state=0).fit(weight.numpy().reshape(-1, 1)).inertia_
    assert found <= 1.05 * best
    assert len(codebook(weight).unique()) <= 2**bits


def test_pruned_weights_are_left_to_the_mask(make):
    weight = torch.randn(30, 20)
    kept = torch.rand(30, 20) < 0.1
    weight[~kept] = 0
    codebook = make(2, ())
    codebook.initialize(weight, kept)
    torch.testing.assert_close(codebook.values, on(weight[kept], make, 2).values)
    assert int(codebook.members.sum()) == int(kept.sum())


SPARSE = {
    "conv": lambda: nn.Conv2d(3, 8, 3),
    "transposed": lambda: nn.ConvTranspose2d(3, 8, 3),
    "linear": lambda: nn.Linear(12, 9),
    "embedding": lambda: nn.Embedding(12, 9),
    "lstm": lambda: nn.LSTM(3, 5),
}


@pytest.mark.parametrize("kind", SPARSE)
@pytest.mark.parametrize("bits", [2, 8])
def test_zeros_that_no_mask_made_are_values_like_any_other(kind, bits, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(SPARSE[kind]())
    with torch.no_grad():
        for weight in net.parameters():  # three values and mostly zeros, as of identities and hand-sparsified layers
            weight.copy_(torch.randint(-1, 3, weight.shape) * (torch.rand(weight.shape) < 0.3))
    x = {"conv": (2, 3, 6, 6), "transposed": (2, 3, 6, 6), "linear": (2, 12), "lstm": (4, 2, 3)}.get(kind)
    x = torch.randint(12, (2, 4)) if x is None else torch.randn(x)
    before = copy.deepcopy(net)
    QuantizationAwareTraining({"0": {"weight_bits": bits}}, weight_quantizer=Codebook).apply(net, x)
    expected, found = dict(before[0].named_parameters()), net[0]
    for key, weight in expected.items():
        torch.testing.assert_close(getattr(found, key), weight)
    loaded = lc.load(lc.save(net, tmp_path / "a"), before)
    for key, weight in expected.items():
        torch.testing.assert_close(getattr(loaded[0], key), weight)


def test_zeros_beside_those_of_a_mask_are_values():
    layer = nn.Linear(4, 2, bias=False)
    net = nn.Sequential(layer)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 1.0, 0.1, 3.0], [0.0, 1.0, 0.1, 3.0]]))
    WeightPruning({"0": {"density": 0.75}}).apply(net, torch.zeros(1, 4))
    mask = mask_of(layer)
    mask.copy_(torch.tensor([[1, 1, 0, 1], [1, 1, 0, 1]]).bool())  # the zero is kept, and another weight is not
    QuantizationAwareTraining({"0": {"weight_bits": 2}}, weight_quantizer=Codebook).apply(net, torch.zeros(1, 4))
    assert layer.weight.tolist() == [[0.0, 1.0, 0.0, 3.0]] * 2


def test_a_weight_that_diverged_is_named():
    net = nn.Sequential(nn.Linear(4, 2))
    nn.init.constant_(net[0].weight, torch.nan)
    callback = QuantizationAwareTraining({"0": {"weight_bits": 2}}, weight_quantizer=Codebook)
    with pytest.raises(CompressError, match="the weight of layer '0' holds NaN or infinity"):
        callback.apply(net, torch.zeros(1, 4))


def test_the_gradient_of_a_value_is_the_sum_over_its_members_divided_by_their_number(make):
    torch.manual_seed(0)
    weight, upstream = torch.randn(8, 6, 3, 3, requires_grad=True), torch.randn(8, 6, 3, 3)
    codebook = on(weight, make, 3)
    (codebook(weight) * upstream).sum().backward()
    expected = torch.stack([upstream[codebook.indices == k].sum() / (codebook.indices == k).sum() for k in range(8)])
    torch.testing.assert_close(codebook.values.grad, expected)
    assert not weight.grad.any()


@pytest.mark.parametrize(
    "weight", [torch.zeros(3, 2), torch.full((3, 2), 0.5), torch.tensor([[1.0, -1.0]]), torch.empty(0, 4)]
)
def test_few_different_weights_are_exact(make, weight):
    codebook = on(weight, make, 4)
    torch.testing.assert_close(codebook(weight), weight)


def test_spec_and_state_make_it_again(make):
    codebook = on(torch.randn(6, 5), make, 3)
    again = Transform.build(codebook.spec())
    again.load_state_dict(codebook.state_dict())
    assert torch.equal(again(torch.empty(0)), codebook(torch.empty(0)))


@pytest.mark.parametrize("bits", [0, 9, 2.5])
def test_bits_out_of_range_are_named(make, bits):
    with pytest.raises(CompressError, match=f"bits must be a whole number from 1 to 8, got {bits}"):
        make(bits, ())


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_the_packed_file_holds_codes_and_codebooks(make, bits, pruned, tmp_path):
    torch.manual_seed(0)
    net = ToyNet(24).eval()
    if pruned:
        WeightPruning({name: {"density": 0.2} for name in LAYERS}).apply(net, EXAMPLE)
    plan = {name: {"weight_bits": bits} for name in LAYERS}
    QuantizationAwareTraining(plan, weight_quantizer=make).apply(net, EXAMPLE)
    profile, x = structure_of(net).profile, torch.randn(4, 1, 8, 8)
    file = lc.save(net, tmp_path / "a")
    for dequantize in (False, True):
        torch.testing.assert_close(lc.load(file, ToyNet(24), dequantize)(x), net(x), rtol=1e-4, atol=1e-4)
    again = lc.save(lc.load(file, ToyNet(24)), tmp_path / "b")
    torch.testing.assert_close(lc.load(again, ToyNet(24))(x), net(x), rtol=1e-4, atol=1e-4)
    assert file.stat().st_size <= PackedBytes()(profile) <= 1.02 * file.stat().st_size + 500
    assert WeightBits()(profile) == bits * sum(layer.nonzeros for layer in profile.weighted)


def fit(module, callbacks):
    trainer = Trainer(max_epochs=4, callbacks=callbacks, **QUIET)
    trainer.fit(module, *toy_data(0))
    return float(trainer.callback_metrics["val_acc"])


def test_training_moves_values_and_no_code(make):
    seed_everything(1, verbose=False)
    module = PlainModule()
    dense = fit(module, [])
    callback = QuantizationAwareTraining({name: {"weight_bits": 2} for name in LAYERS}, weight_quantizer=make)
    callback.apply(module.model, EXAMPLE)
    (codebook,) = weight_transforms(module.model.conv1)
    before = codebook.values.detach().clone(), codebook.indices.clone()
    assert fit(module, [callback]) >= dense - 0.05
    assert torch.equal(codebook.indices, before[1])
    assert not torch.equal(codebook.values, before[0])


def test_two_bits_of_a_codebook_are_nearer_than_two_bits_of_a_grid(make):
    weight = torch.from_numpy(np.random.default_rng(0).laplace(size=(64, 64)).astype(np.float32))
    grid = LSQ(2, ())
    grid.initialize(weight)
    assert nn.functional.mse_loss(on(weight, make, 2)(weight), weight) < nn.functional.mse_loss(grid(weight), weight)


def test_the_step_of_a_value_is_the_mean_over_the_weights_that_are_kept():
    torch.manual_seed(0)
    layer, x = nn.Linear(40, 30), torch.randn(8, 40)
    net = nn.Sequential(layer)
    WeightPruning({"0": {"density": 0.1}}).apply(net, x)
    QuantizationAwareTraining({"0": {"weight_bits": 2}}, weight_quantizer=Codebook).apply(net, x)
    codebook, mask = weight_transforms(layer)
    net(x).square().sum().backward()
    free = layer.weight.detach().requires_grad_()
    nn.functional.linear(x, free, layer.bias).square().sum().backward()
    kept = mask.mask
    expected = torch.stack([free.grad[kept & (codebook.indices == k)].mean() for k in range(4)])
    torch.testing.assert_close(codebook.values.grad, expected)
