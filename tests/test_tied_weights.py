"""Layers that share a parameter, packed and loaded: each gets back the weight that it had."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lightning_compress as lc
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.weight_pruning import WeightPruning


class TiedConvs(nn.Module):
    """Two convolutions with one weight, each with a batch norm of its own, folded into a copy of that weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.b.weight = self.a.weight
        self.norm_a, self.norm_b = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm_b(self.b(self.norm_a(self.a(x)).relu()))


class LanguageModel(nn.Module):
    """A decoder that shares the table of the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding, self.again, self.decoder = nn.Embedding(11, 8), nn.Embedding(11, 8), nn.Linear(8, 11)
        self.again.weight = self.decoder.weight = self.embedding.weight

    def forward(self, x):
        return self.decoder(self.embedding(x) + self.again(x))


def linears() -> nn.Module:
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    net[2].weight = net[0].weight
    return net


CASES = {
    "bits of one": (linears, QuantizationAwareTraining({"0": {"weight_bits": 2}}), torch.randn(3, 8)),
    "densities": (linears, WeightPruning({"0": {"density": 0.5}, "2": {"density": 0.1}}), torch.randn(3, 8)),
    "batch norms": (TiedConvs, None, torch.randn(2, 3, 6, 6)),
    "a table and a pruned layer": (
        LanguageModel,
        WeightPruning({"decoder": {"density": 0.1}}),
        torch.randint(11, (2, 5)),
    ),
    "tables alone": (LanguageModel, None, torch.randint(11, (2, 5))),
}


@pytest.mark.parametrize("dequantize", [False, True])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_each_layer_gets_its_own_weight_back(tmp_path, case, dequantize):
    make, callback, example = CASES[case]
    net = make()
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    net.eval()
    if callback is not None:
        callback.apply(net, example)
    lc.save(net, tmp_path / "net.safetensors", example)
    torch.testing.assert_close(lc.load(tmp_path / "net.safetensors", make(), dequantize)(example), net(example))


def test_what_holds_the_same_values_stays_tied(tmp_path):
    lc.save(LanguageModel(), tmp_path / "net.safetensors", torch.randint(11, (2, 5)))
    net = lc.load(tmp_path / "net.safetensors", LanguageModel())
    assert net.decoder.weight is net.embedding.weight is net.again.weight
