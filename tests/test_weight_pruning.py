"""Masks: which weights they keep, when, that nothing brings a weight back, and how many bytes they take."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from omegaconf import OmegaConf
from torch import nn

import lightning_compress as lc
import lightning_compress.conf
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.costs.weight_bits import WeightBits
from lightning_compress.core.errors import CompressError
from lightning_compress.pruning.patterns.element import Element
from lightning_compress.pruning.patterns.kernel import Kernel
from lightning_compress.pruning.patterns.n_of_m import NofM
from lightning_compress.pruning.schedules.cubic import Cubic
from lightning_compress.pruning.scopes.network_wide import NetworkWide
from lightning_compress.quantization.quantizers.codebook import Codebook
from lightning_compress.quantization.quantizers.dorefa import DoReFa
from lightning_compress.quantization.quantizers.lsq import LSQ
from lightning_compress.quantization.quantizers.min_max import MinMax
from lightning_compress.surgery import measure
from lightning_compress.surgery.mask import mask_of, measured
from lightning_compress.surgery.structure import structure_of
from lightning_compress.testing.toys import QUIET, PlainModule, ToyNet, toy_data

CONF = Path(lightning_compress.conf.__file__).parent / "compress"
EXAMPLE = torch.zeros(2, 1, 8, 8)
LAYERS = ("stem.0", "conv1", "conv2", "fc")


def everywhere(density: float, layers=LAYERS) -> dict[str, dict[str, float]]:
    return {name: {"density": density} for name in layers}


def files(kind: str) -> list[Path]:
    return sorted((CONF / kind).glob("*.yaml"))


def pruned(callback: WeightPruning, net: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    net = ToyNet().eval() if net is None else net
    callback.apply(net, EXAMPLE)
    return net


def test_network_wide_is_one_threshold_over_all_layers():
    net = pruned(WeightPruning(everywhere(0.3), scope=NetworkWide()))
    weights = {n: net.get_submodule(n).parametrizations["weight"].original.abs() for n in LAYERS}
    kept = torch.cat([weights[n][mask_of(net.get_submodule(n))] for n in LAYERS])
    lost = torch.cat([weights[n][~mask_of(net.get_submodule(n))] for n in LAYERS])
    assert kept.min() >= lost.max()
    total = sum(w.numel() for w in weights.values())
    assert abs(len(kept) - 0.3 * total) <= len(LAYERS)
    assert len({round(p.density, 3) for p in structure_of(net).profile.weighted}) > 1


@pytest.mark.parametrize("callback", [
    WeightPruning(everywhere(0.3)), WeightPruning(everywhere(0.37), Kernel()),
    WeightPruning(everywhere(0.5, LAYERS[1:]), NofM()),
    WeightPruning(everywhere(0.1), scope=NetworkWide()),
], ids=["element", "kernel", "2:4", "network-wide"])  # fmt: skip
@pytest.mark.parametrize("bits", [None, 2, 5])
def test_the_packed_file_brings_back_masks_and_values_and_has_the_predicted_size(callback, bits, tmp_path):
    net = pruned(callback, ToyNet(24).eval() if bits else None)
    if bits:
        QuantizationAwareTraining({key: {"weight_bits": bits} for key in LAYERS}).apply(net, EXAMPLE)
    profile = structure_of(net).profile
    x = torch.randn(4, 1, 8, 8)
    expected = net(x)
    file = lc.save(net, tmp_path / "a")
    loaded = lc.load(file, type(net)(24 if bits else 8))
    torch.testing.assert_close(loaded(x), expected, rtol=1e-4, atol=1e-4)
    plain = lc.load(file, type(net)(24 if bits else 8), dequantize=True)
    torch.testing.assert_close(plain(x), expected, rtol=1e-4, atol=1e-4)
    assert file.stat().st_size <= PackedBytes()(profile) <= 1.02 * file.stat().st_size + 500
    again = lc.save(loaded, tmp_path / "b")
    torch.testing.assert_close(lc.load(again, type(net)(24 if bits else 8))(x), expected, rtol=1e-4, atol=1e-4)
    assert lc.inspect(file).profile.macs == profile.macs == measured(net, profile).macs
    assert WeightBits()(profile) == sum(
        int(mask_of(net.get_submodule(n)).sum() if n in callback.plan.layers else net.get_submodule(n).weight.numel())
        * (bits or 32)
        for n in LAYERS
    )


def test_a_twentieth_of_the_weights_is_about_a_tenth_of_the_file(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(500, 400), nn.ReLU(), nn.Linear(400, 10)).eval()
    dense = lc.save(net, tmp_path / "dense", example_input=torch.zeros(1, 500)).stat().st_size
    WeightPruning({"0": {"density": 0.05}, "2": {"density": 0.05}}).apply(net, torch.zeros(1, 500))
    small = lc.save(net, tmp_path / "sparse").stat().st_size
    # 5 % of the values, each with 0.286 / 0.05 bits of position (the entropy of 5 %), biases, and the header.
    assert small < (0.05 + 0.286 / 32) * dense + 1640 + 700


def train(callback, epochs, ckpt=None, optimizer=None, limit=1.0):
    seed_everything(1, verbose=False)
    module = PlainModule()
    if optimizer is not None:
        module.configure_optimizers = lambda: optimizer(module.parameters())
    seed_everything(2, verbose=False)
    trainer = Trainer(max_epochs=epochs, callbacks=[callback], limit_train_batches=limit, **QUIET)
    trainer.fit(module, *toy_data(0), ckpt_path=ckpt)
    return module, trainer


@pytest.mark.parametrize("optimizer", [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.95, weight_decay=0.1),
    lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5),
], ids=["sgd", "adamw"])  # fmt: skip
@pytest.mark.parametrize("file", files("schedule"), ids=lambda f: f.stem)
def test_what_is_pruned_stays_zero_under_momentum_and_weight_decay(optimizer, file):
    seen = []

    class Watch(WeightPruning):
        def on_train_batch_end(self, trainer, pl_module, *_):
            layer = pl_module.model.conv1
            seen.append((mask_of(layer).clone(), layer.weight.detach().clone()))

    callback = Watch(everywhere(0.2), schedule=instantiate(OmegaConf.load(file)), every=2)
    module, _ = train(callback, 3, optimizer=optimizer)
    for (before, _), (after, weight) in itertools.pairwise(seen):
        assert not (after & ~before).any()
        assert (weight[~after] == 0).all()
    assert int(mask_of(module.model.conv1).sum()) == round(0.2 * module.model.conv1.weight.numel())


def test_a_schedule_starts_dense_and_ends_at_the_plan():
    shares = []

    class Watch(WeightPruning):
        def on_train_batch_end(self, trainer, pl_module, *_):
            shares.append(float(mask_of(pl_module.model.conv1).float().mean()))

    train(Watch({"conv1": {"density": 0.1}}, schedule=Cubic(0, 0.5), every=1), 2)
    assert shares[0] == 1.0
    assert shares == sorted(shares, reverse=True)
    steps = len(shares)
    expected = [1 - 0.9 * Cubic(0, 0.5)(i / steps) for i in range(steps)]
    np.testing.assert_allclose(shares, expected, atol=0.001)


@pytest.mark.parametrize("file", files("schedule"), ids=lambda f: f.stem)
@pytest.mark.parametrize("packed", [False, True])
def test_a_second_training_revives_nothing(file, packed, tmp_path):
    seen = []

    class Watch(WeightPruning):
        def on_train_batch_end(self, trainer, pl_module, *_):
            seen.append(mask_of(pl_module.model.conv1).clone())

    Watch.kind = "weight_pruning"  # under which the first training is recorded
    plan = {"conv1": {"density": 0.25}}
    callback = Watch(plan, schedule=instantiate(OmegaConf.load(file)), every=1)
    module, _ = train(callback, 2)
    mask = mask_of(module.model.conv1).clone()
    if packed:
        module = lc.load(lc.save(module, tmp_path / "a"), PlainModule()).train()
    seen.clear()
    Trainer(max_epochs=2, callbacks=[callback], **QUIET).fit(module, *toy_data(0))
    assert int(mask.sum()) == round(0.25 * mask.numel())
    assert all(torch.equal(now, mask) for now in [*seen, mask_of(module.model.conv1)])


def test_a_training_after_an_interrupted_one_goes_on_with_what_is_left():
    seen = []

    class Interrupted(WeightPruning):
        def on_train_batch_end(self, trainer, pl_module, *_):
            seen.append(mask_of(pl_module.model.conv1).clone())
            if len(seen) == 6:
                raise RuntimeError("stop")

    Interrupted.kind = "weight_pruning"
    callback = Interrupted({"conv1": {"density": 0.2}}, schedule=Cubic(0, 1.0), every=1)
    seed_everything(1, verbose=False)
    module = PlainModule()
    for _ in range(2):
        try:
            Trainer(max_epochs=2, callbacks=[callback], **QUIET).fit(module, *toy_data(0))
        except RuntimeError:
            continue
    assert all(not (after & ~before).any() for before, after in itertools.pairwise(seen))
    assert seen[5].float().mean() > 0.3
    assert int(mask_of(module.model.conv1).sum()) == round(0.2 * seen[0].numel())


def test_a_file_saved_before_the_schedule_ended_says_what_it_holds(tmp_path):
    module, _trainer = train(WeightPruning({"conv1": {"density": 0.1}}, schedule=Cubic(0, 1.0), every=1), 1)
    assert lc.inspect(lc.save(module, tmp_path / "end")).profile["conv1"].density == pytest.approx(0.1, abs=1e-3)
    layer = module.model.conv1
    mask_of(layer).fill_(True)
    assert lc.inspect(lc.save(module, tmp_path / "early")).profile["conv1"].density == 1


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (WeightPruning({"bn1": {"density": 0.5}}), "layer 'bn1' is a BatchNorm2d, and only Conv and Linear"),
        (WeightPruning({"conv1": {"density": 0}}), "density of layer 'conv1' must be above 0"),
        (WeightPruning({"stem.0": {"density": 0.5}}, NofM()), "layer 'stem.0' has 1 inputs for each output"),
        (WeightPruning({"conv1": {"density": 0.4}}, NofM()), "must be 0.5 or 1 with 2:4"),
    ],
)
def test_bad_plans_are_named(callback, message):
    with pytest.raises(CompressError, match=message):
        callback.apply(ToyNet(), EXAMPLE)


def test_n_of_m_leaves_a_scope_no_choice():
    with pytest.raises(CompressError, match=r"NofM keeps 2 of 4 .* NetworkWide has nothing .* use PerLayer"):
        WeightPruning({"conv1": {"density": 0.5}}, NofM(), scope=NetworkWide())


@pytest.mark.parametrize("quantizer", [LSQ, MinMax, DoReFa, Codebook])
@pytest.mark.parametrize("bits", [1, 3])
def test_pruned_weights_stay_zero_on_grids_without_a_zero(quantizer, bits, tmp_path):
    net = pruned(WeightPruning(everywhere(0.4)))
    masks = {name: mask_of(net.get_submodule(name)) for name in LAYERS}
    plan = {name: {"weight_bits": bits} for name in LAYERS}
    QuantizationAwareTraining(plan, weight_quantizer=quantizer).apply(net, EXAMPLE)
    assert all((net.get_submodule(name).weight[~mask] == 0).all() for name, mask in masks.items())
    x = torch.randn(4, 1, 8, 8)
    loaded = lc.load(lc.save(net, tmp_path / "a"), ToyNet())
    torch.testing.assert_close(loaded(x), net(x), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(mask_of(loaded.get_submodule(name)), mask) for name, mask in masks.items())


def test_channels_cannot_be_removed_after_masks():
    net = pruned(WeightPruning({"conv1": {"density": 0.5}}))
    with pytest.raises(CompressError, match=r"'conv1' already goes through .*; apply ChannelPruning before"):
        ChannelPruning({"conv1": {"channels": 0.5}}).apply(net, EXAMPLE)


def test_masks_after_channels_are_of_the_thin_network():
    net = ToyNet().eval()
    dense = measure.measure(net, EXAMPLE)
    ChannelPruning({"conv1": {"channels": 0.5}}).apply(net, EXAMPLE)
    WeightPruning({"conv1": {"density": 0.25}}).apply(net, EXAMPLE)
    assert int(mask_of(net.conv1).sum()) == net.conv1.weight.numel() // 4
    assert structure_of(net).profile["conv1"].nonzeros == dense["conv1"].weights // 8


def test_magnitudes_of_the_trained_network_decide():
    net = ToyNet().eval()
    weight = copy.deepcopy(net.conv1.weight.detach())
    pruned(WeightPruning({"conv1": {"density": 0.1}}, Element()), net)
    threshold = weight.abs().flatten().sort(descending=True).values[round(0.1 * weight.numel()) - 1]
    assert torch.equal(net.conv1.weight, torch.where(weight.abs() >= threshold, weight, 0))
