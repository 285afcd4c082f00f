"""Callbacks on a network that was compiled before the training."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning import Trainer

import lightning_compress as lc
from lightning_compress.callbacks.base.output_errors import record_calls
from lightning_compress.pruning.input_moments import KEY, gather_moments
from lightning_compress.surgery import modes
from lightning_compress.surgery.calibration import calibration_of
from lightning_compress.surgery.copies import clone, copy_with, sharing
from lightning_compress.surgery.measure import measure
from lightning_compress.surgery.structure import network
from lightning_compress.surgery.transforms import input_transform
from lightning_compress.testing.toys import QUIET, PlainModule, toy_data


@pytest.fixture
def compiled():
    module = PlainModule()
    module.model.compile(backend="eager")
    yield module
    torch.compiler.reset()


def fit(module: PlainModule, callback) -> None:
    Trainer(max_epochs=1, limit_train_batches=2, callbacks=[callback], **QUIET).fit(module, *toy_data(0))


def test_inputs_get_their_scales(compiled):
    fit(compiled, lc.QuantizationAwareTraining({"conv1": {"weight_bits": 4, "act_bits": 4}}))
    quantizer = input_transform(network(compiled).get_submodule("conv1"))
    assert quantizer.calibrated
    assert quantizer.low == 0  # behind a ReLU


WATCHED = {
    "moments": lambda net, x: gather_moments(net, [x]) or set(calibration_of(net, KEY)),
    "profile": lambda net, x: list(measure(net, x)),
    "steps": lambda net, x: measure(net, x).steps,
    "modes": lambda net, x: [(found.layers, len(found.operations)) for found in modes.recorded(net, x).values()],
    "errors": lambda net, x: record_calls(net, ["conv1", "fc"], x).keys(),
}


@pytest.mark.parametrize("name", WATCHED)
def test_what_watches_a_network_sees_the_same_after_it_ran_compiled(compiled, name):
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        compiled.model.eval()(x)
    assert WATCHED[name](compiled.model, x) == WATCHED[name](PlainModule().model.eval(), x)


def test_features_inside_cannot_be_seen(compiled):
    with pytest.raises(lc.CompressError, match="is compiled, and gives no features of layers inside"):
        fit(compiled, lc.FeatureDistillation(PlainModule().model, {"conv1": "conv1"}))


@pytest.mark.parametrize("inside", [False, True])
def test_a_wrapper_that_changes_names_is_told(inside):
    module = PlainModule()
    if inside:
        module.model.conv1 = torch.compile(module.model.conv1, backend="eager")
    else:
        module.model = torch.compile(module.model, backend="eager")
    with pytest.raises(
        lc.CompressError, match=r"is wrapped by torch.compile, .*'_orig_mod'.* write self.net.compile\(\)"
    ):
        fit(module, lc.QuantizationAwareTraining({"conv1": {"weight_bits": 4}}))


MAKERS = {
    "clone": clone,
    "sharing": sharing,
    "copy_with": lambda net: copy_with(net, lambda tensor: tensor.detach().clone()),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_copy_runs_its_own_layers(compiled, make):
    compiled.model.conv1.compile(backend="eager")
    made, ran = make(compiled.model), []
    made.conv1.register_forward_pre_hook(lambda *_: ran.append("conv1"))
    made.register_forward_pre_hook(lambda *_: ran.append("network"))
    with torch.compiler.set_stance("force_eager"):
        made(torch.rand(2, 1, 8, 8))
    assert ran == ["network", "conv1"]


def test_channels_go_as_those_of_a_plain_network(compiled):
    plain = PlainModule()
    for module in (plain, compiled):
        fit(module, lc.ChannelPruning({"conv1": {"channels": 0.5}}))
    assert network(compiled).conv1.weight.shape == network(plain).conv1.weight.shape
