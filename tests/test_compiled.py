"""Callbacks on a network that was compiled before the training."""

from __future__ import annotations

import pytest
import torch
from lightning import Trainer

import lightning_compress as lc
from lightning_compress.surgery.structure import network
from lightning_compress.surgery.transforms import input_transform
from lightning_compress.testing.toys import QUIET, PlainModule, toy_data


def in_place(module: PlainModule) -> tuple[PlainModule, str]:
    module.model.compile(backend="eager")
    return module, ""


def wrapped(module: PlainModule) -> tuple[PlainModule, str]:
    module.model = torch.compile(module.model, backend="eager")
    return module, "_orig_mod."


@pytest.fixture(params=[in_place, wrapped])
def compiled(request):
    yield request.param(PlainModule())
    torch.compiler.reset()


def fit(module: PlainModule, callback) -> None:
    Trainer(max_epochs=1, limit_train_batches=2, callbacks=[callback], **QUIET).fit(module, *toy_data(0))


def test_inputs_get_their_scales(compiled):
    module, prefix = compiled
    fit(module, lc.QuantizationAwareTraining({f"{prefix}conv1": {"weight_bits": 4, "act_bits": 4}}))
    quantizer = input_transform(network(module).get_submodule(f"{prefix}conv1"))
    assert quantizer.calibrated
    assert quantizer.low == 0  # behind a ReLU


def test_features_inside_cannot_be_seen(compiled):
    module, prefix = compiled
    with pytest.raises(lc.CompressError, match="is compiled, and gives no features of layers inside"):
        fit(module, lc.FeatureDistillation(PlainModule().model, {f"{prefix}conv1": "conv1"}))
