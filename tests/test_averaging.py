"""Lightning's averages of weights beside compression: allowed where they keep what was compressed, else refused."""

from __future__ import annotations

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging

import lightning_compress as lc
from lightning_compress.quantization.quantizers.codebook import Codebook
from lightning_compress.quantization.quantizers.lsq import LSQ
from lightning_compress.surgery.mask import mask_of
from lightning_compress.surgery.structure import network
from lightning_compress.testing.toys import QUIET, PlainModule, toy_data

LAYERS = ("conv1", "fc")


def plan(**knobs: float) -> dict[str, dict[str, float]]:
    return dict.fromkeys(LAYERS, knobs)


def ema(use_buffers: bool = False) -> EMAWeightAveraging:
    return EMAWeightAveraging(decay=0.9, use_buffers=use_buffers)


def swa() -> StochasticWeightAveraging:
    return StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=0.5)


def fitted(*callbacks) -> PlainModule:
    module = PlainModule()
    Trainer(max_epochs=2, callbacks=list(callbacks), num_sanity_val_steps=2, **QUIET).fit(module, *toy_data(0))
    return module


@pytest.mark.parametrize("average", [ema, swa])
def test_pruned_weights_stay_pruned_under_an_average(average):
    net = network(fitted(lc.WeightPruning(plan(density=0.25)), average()))
    for name in LAYERS:
        layer = net.get_submodule(name)
        assert mask_of(layer).float().mean() == pytest.approx(0.25, abs=0.01)
        assert torch.equal(layer.weight != 0, mask_of(layer))


@pytest.mark.parametrize("average", [ema, swa])
@pytest.mark.parametrize("quantizer", [LSQ, Codebook])
def test_quantized_networks_can_be_saved_after_an_average(tmp_path, average, quantizer):
    module = fitted(lc.QuantizationAwareTraining(plan(weight_bits=4, act_bits=4), quantizer), average())
    lc.save(module, tmp_path / "net.safetensors")
    x = next(iter(toy_data(0)[1]))[0]
    torch.testing.assert_close(
        lc.load(tmp_path / "net.safetensors", PlainModule()).model(x), module.model.eval()(x), rtol=1e-4, atol=1e-4
    )


def test_averages_of_masks_and_codes_are_refused():
    with pytest.raises(lc.CompressError, match="WeightPruning: EMAWeightAveraging averages buffers too"):
        fitted(lc.WeightPruning(plan(density=0.25)), ema(use_buffers=True))


@pytest.mark.parametrize("average", [ema, swa])
def test_an_average_that_began_before_the_structure_changed_is_refused(average):
    with pytest.raises(lc.CompressError, match="is listed before it and copies the network of before"):
        fitted(average(), lc.ChannelPruning(plan(channels=0.5)))


@pytest.mark.parametrize("average", [ema, swa])
@pytest.mark.parametrize(
    "callback",
    [
        lc.JointSparsityQuantization(plan(joint=1)),
        lc.VariationalDropout(plan(variational=1)),
        lc.LogNormalDropout({"conv1": {"log_normal": 1}}),
    ],
)
def test_an_average_over_weights_that_are_replaced_is_refused(average, callback):
    with pytest.raises(lc.CompressError, match="replaces weights in the course of the training"):
        fitted(callback, average())
