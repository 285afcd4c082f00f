"""The learning-rate probe: against plain trainings in torch, in a stage, and through lc.compress."""

from __future__ import annotations

import copy
import json
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer

import lightning_compress as lc
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.errors import CompressError
from lightning_compress.core.json_record import read_record, write_record
from lightning_compress.pipeline.context import PLANNED, RunContext
from lightning_compress.pipeline.lr_probe import PROBED, LearningRateProbe
from lightning_compress.pipeline.planners.uniform import Uniform
from lightning_compress.pipeline.stage import Stage
from lightning_compress.surgery import measure
from lightning_compress.testing.toys import FullModule, PlainModule, ToyData, toy_data

EXAMPLE = torch.zeros(2, 1, 8, 8)
PROBE = LearningRateProbe(steps=6, shares=(1.0, 0.1, 0.001))


def context(folder, module):
    profile = measure.measure(module.model, EXAMPLE)
    return RunContext(ToyData(), module, profile, EXAMPLE, partial(Trainer, accelerator="cpu"), folder, 0)


def dense(**settings):
    torch.manual_seed(0)
    return FullModule(**{"lr": 0.3, **settings})


def loss_after(module, rate, steps=6):
    """Return the validation loss after a plain training without compression."""
    net, (train, val) = copy.deepcopy(module.model).train(), toy_data(0)
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum=0.9)
    for _, (x, y) in zip(range(steps), train, strict=False):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    norms = [part for part in net.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        for x, _ in train:
            net(x)
        net.eval()
        return float(torch.stack([F.cross_entropy(net(x), y) for x, y in val]).mean())


def test_the_least_loss_of_plain_trainings_is_chosen(tmp_path):
    module = dense()
    run = context(tmp_path, module)
    Stage(attributes={"lr": "auto"}, lr_probe=PROBE, epochs=0).run("train", module, run)
    losses = dict(json.loads((tmp_path / "train" / PROBED).read_text())["losses"])
    expected = {rate: loss_after(module, rate) for rate in (0.3, 0.03, 0.0003)}
    assert losses == pytest.approx(expected, rel=5e-3)  # batch norms see batches of another order


def bits(**settings):
    callback = {"bits": QuantizationAwareTraining(weight_bits=(2, 4), act_bits=(8,))}
    return Stage(callback, Uniform({"weight_bits": 4}), lr_probe=PROBE, epochs=0, **settings)


def test_a_stage_trains_at_the_rate_and_says_so(tmp_path):
    module = dense()
    trained = bits(attributes={"lr": "auto"}).run("bits", module, context(tmp_path, module))
    losses = dict(json.loads((tmp_path / "bits" / PROBED).read_text())["losses"])
    best = min(losses, key=losses.get)
    assert trained.lr == best
    assert module.lr == 0.3  # the module that came in is not changed
    told = json.loads((tmp_path / "bits" / PLANNED).read_text())["origin"]
    assert f"fine-tuned with the learning rate {best:g}: of 0.3, 0.03, 0.0003 it has the least val_loss" in told


def test_what_was_probed_is_read_unless_it_was_of_something_else(tmp_path):
    module = dense()
    run, file = context(tmp_path, module), tmp_path / "bits" / PROBED
    stage = bits(attributes={"lr": "auto"})
    stage.run("bits", module, run)
    written = {**read_record(file), "losses": [[0.3, 2.0], [0.03, None], [0.0003, 1.0]]}
    write_record(file, written)
    assert stage.run("bits", module, run).lr == 0.0003
    other = dense(lr=0.2)
    assert stage.run("bits", other, context(tmp_path, other)).lr in (0.2, 0.02, 0.0002)


def test_a_module_without_a_rate_is_refused(tmp_path):
    torch.manual_seed(0)
    module = PlainModule()
    with pytest.raises(CompressError, match="the attribute lr of PlainModule, which is None; give the module"):
        bits(attributes={"lr": "auto"}).run("bits", module, context(tmp_path, module))


@pytest.mark.parametrize(("given", "words"), [({"steps": 0}, "steps must be 1"), ({"shares": (1.0, 0.0)}, "above 0")])
def test_settings_that_cannot_be_are_refused(given, words):
    with pytest.raises(CompressError, match=words):
        LearningRateProbe(**given).check("bits")


def test_of_an_own_module_through_compress(tmp_path):
    train, val = toy_data(0)
    result = lc.compress(
        dense(),
        train,
        "quant",
        val=val,
        test=val,
        lr="auto",
        folder=tmp_path,
        overrides=[
            "compress.uniform.weight_bits=4",
            "compress.stages.quantize.lr_probe.steps=2",
            "compress.stages.quantize.lr_probe.shares=[1.0,0.1]",
            "compress.stages.quantize.epochs=0",
        ],
        make_trainer=partial(Trainer, accelerator="cpu", logger=False),
    )
    assert "fine-tuned with the learning rate" in result.origins["quantize"]
