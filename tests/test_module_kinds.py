"""Kinds of modules that cannot be compressed as they are, and some that only look so."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import lightning_compress as lc
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.patience import told_when_slow

X = torch.zeros(2, 4)


class Caches(nn.Module):
    """Keeps a tensor that it computes in eval mode, as LeViT keeps its attention biases."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.bias = nn.Linear(4, 8), nn.Linear(8, 2), nn.Parameter(torch.randn(1, 1))
        self.cache: dict[str, torch.Tensor] = {}

    def forward(self, x):
        if not self.cache:
            self.cache["bias"] = self.bias * 2
        return self.b(self.a(x).relu()) + self.cache["bias"]


@pytest.mark.parametrize("ran", [False, True])
def test_a_network_that_caches_a_computed_tensor_is_pruned_and_saved(ran, tmp_path):
    net = Caches().eval()
    if ran:
        net(X)
        assert not net.cache["bias"].is_leaf
        assert torch.equal(clone(net)(X), net(X))
    lc.ChannelPruning({"a": {"channels": 0.5}}).apply(net, X)
    lc.save(net, tmp_path / "a.safetensors", example_input=X)
    assert net.a.out_features == 4


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (torch.jit.trace(nn.Linear(4, 2), X), r"the network is a ScriptModule, .* script the result"),
        (nn.Sequential(torch.jit.trace(nn.Linear(4, 2), X)), r"layer '0' is a ScriptModule"),
        (nn.DataParallel(nn.Linear(4, 2)), r"wrapped in DataParallel; give the module inside it"),
    ],
)
def test_what_cannot_be_changed_is_told_at_once(net, message):
    with pytest.raises(lc.CompressError, match=message):
        lc.QuantizationAwareTraining({"0": {"weight_bits": 4}}).apply(net, X)


def test_what_takes_long_is_told_and_what_does_not_is_not(caplog):
    with told_when_slow("quick", seconds=3600) as timer:
        assert timer.is_alive()
    with told_when_slow("slow", seconds=0) as timer:
        timer.join()
    assert [record.message for record in caplog.records] == ["slow"]


def test_a_lazy_network_is_to_be_run_before_a_file_is_loaded(tmp_path):
    net = nn.Linear(4, 2)
    lc.save(net, tmp_path / "a.safetensors", example_input=X)
    lazy = nn.LazyLinear(2)
    with pytest.raises(lc.CompressError, match=r"LazyLinear is lazy.* run the network once on a batch"):
        lc.load(tmp_path / "a.safetensors", lazy)
    lazy(X)
    torch.testing.assert_close(lc.load(tmp_path / "a.safetensors", lazy)(X), net(X))


class HandsOn(nn.Module):
    """Has the attributes of the layer inside, as wrappers of PEFT."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["inner"], name)

    def forward(self, x):
        return self.last(self.inner(x))


def test_a_wrapper_that_hands_on_attributes_is_copied_whole(tmp_path):
    net = nn.Sequential(HandsOn())
    lc.QuantizationAwareTraining({"0.inner": {"weight_bits": 4}}).apply(net, X)
    assert torch.equal(copy.deepcopy(net)(X), net(X))
    lc.save(net, tmp_path / "a.safetensors", example_input=X)
    torch.testing.assert_close(lc.load(tmp_path / "a.safetensors", nn.Sequential(HandsOn()))(X), net(X))
