"""Test what networks trained with noise drop, what is left of it afterwards, and how bad settings are refused."""

from __future__ import annotations

import pytest
import torch
from lightning import Trainer, seed_everything
from test_noise import EXAMPLE, LAYERS
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import lightning_compress as lc
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.information_dropout import InformationDropout
from lightning_compress.callbacks.log_normal_dropout import LogNormalDropout
from lightning_compress.callbacks.variational_dropout import VariationalDropout
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.errors import CompressError
from lightning_compress.pruning.criteria.information import Information
from lightning_compress.pruning.criteria.signal_to_noise import SignalToNoise
from lightning_compress.pruning.patterns.kernel import Kernel
from lightning_compress.pruning.patterns.n_of_m import NofM
from lightning_compress.surgery import measure
from lightning_compress.surgery.mask import mask_of
from lightning_compress.surgery.structure import structure_of
from lightning_compress.surgery.transforms import output_transform
from lightning_compress.testing.toys import QUIET, PlainModule, toy_data


def train(callbacks, epochs=30, lr=0.05):
    seed_everything(1, verbose=False)
    module = PlainModule()
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9)
    trainer = Trainer(max_epochs=epochs, callbacks=callbacks, gradient_clip_val=5.0, **QUIET)
    trainer.fit(module, *toy_data(0))
    return module, float(trainer.callback_metrics["val_acc"])


@pytest.mark.parametrize("pattern", [None, Kernel()], ids=["element", "kernel"])
def test_variational_dropout_drops_most_weights_and_keeps_the_accuracy(pattern, tmp_path):
    _, dense = train([])
    module, accuracy = train([VariationalDropout({name: {"variational": 1} for name in LAYERS}, pattern)])
    profile = structure_of(module.model).profile
    assert accuracy >= dense - 0.05
    assert sum(p.nonzeros for p in profile.weighted) < 0.6 * sum(p.weights for p in profile.weighted)
    mask = mask_of(module.model.conv1)
    assert (module.model.conv1.weight[~mask] == 0).all()
    if pattern is not None:
        slices = mask.flatten(2)
        assert torch.equal(slices.any(2), slices.all(2))
    file = lc.save(module.eval(), tmp_path / "a")
    x = next(iter(toy_data(0)[1]))[0]
    torch.testing.assert_close(lc.load(file, PlainModule())(x), module(x), rtol=1e-4, atol=1e-4)
    assert lc.inspect(file).profile.macs == profile.macs


def test_a_stronger_kl_drops_more():
    plan = {"conv1": {"variational": 1}, "conv2": {"variational": 1}}
    densities = []
    for strength in (0.1, 3.0):
        module, _ = train([VariationalDropout(plan, strength=strength)], epochs=15)
        densities.append(structure_of(module.model).profile["conv1"].density)
    assert densities[1] < densities[0]


def test_a_channel_that_nobody_reads_falls_below_an_snr_of_one_and_is_pruned():
    seed_everything(1, verbose=False)
    module = PlainModule()
    module.model = net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    )
    with torch.no_grad():
        net[3].weight[:, 4] = 0
    net[3].weight.register_hook(lambda g: g * (net[3].weight != 0))
    trainer = Trainer(max_epochs=15, callbacks=[LogNormalDropout({"0": {"log_normal": 1}}, strength=0.1)], **QUIET)
    trainer.fit(module, *toy_data(0))
    snr = output_transform(net[1]).snr()
    assert snr[4] < 1
    assert snr.max() > 10
    keeper = net[0].weight.detach()[snr.argsort(descending=True)[:3].sort().values]
    ChannelPruning({"0": {"channels": 0.5}}, SignalToNoise()).apply(net, EXAMPLE)
    assert torch.equal(net[0].weight, keeper)
    assert output_transform(net[1]) is None


def after_noise(log_scales: list[float], layers: dict[str, str]) -> nn.Module:
    """Return a toy network on which log-normal noise has ended; log scales repeat over the channels of each layer."""
    net = PlainModule().model
    LogNormalDropout({name: {"log_normal": 1} for name in layers}).apply(net, EXAMPLE)
    for host in layers.values():
        noise = output_transform(net.get_submodule(host))
        scales = torch.tensor(log_scales).repeat(noise.channels)[: noise.channels]
        with torch.no_grad():
            noise.raw_log_scale.copy_(scales / noise.speed)
        noise.end(net.get_submodule(host))
    return net


@pytest.mark.parametrize("kept", [1.0, 0.25])
def test_a_threshold_drops_the_channels_that_the_noise_has_drowned(kept):
    net = after_noise([-3.0, 2.0], {"conv1": "bn1"})  # every second of 16 channels
    snr = output_transform(net.bn1).snr()
    assert torch.equal(snr >= 1, torch.arange(16) % 2 == 0)
    weight = net.conv1.weight.detach().clone()
    callback = ChannelPruning({"conv1": {"channels": kept}}, SignalToNoise(threshold=1.0))
    callback.apply(net, EXAMPLE)
    assert structure_of(net).applied["channel_pruning"] == lc.Plan({"conv1": {"channels": min(kept, 0.5)}})
    assert torch.equal(net.conv1.weight, weight[::2][: round(16 * min(kept, 0.5))])
    callback.apply(net, EXAMPLE)  # again, now that the noise is gone
    assert len(net.conv1.weight) == round(16 * min(kept, 0.5))


def test_a_threshold_keeps_one_channel_and_coupled_ones_that_tell_anything():
    everywhere = ChannelPruning({"conv1": {"channels": 1.0}}, SignalToNoise(threshold=1.0))
    net = after_noise([2.0], {"conv1": "bn1"})
    everywhere.apply(net, EXAMPLE)
    assert len(net.conv1.weight) == 1
    coupled = everywhere.with_plan(lc.Plan({"stem.0": {"channels": 1.0}}))  # with conv2, by the residual sum
    for layers, left in (({"conv2": "bn2"}, 8), ({"stem.0": "stem.1", "conv2": "bn2"}, 4)):
        net = after_noise([-3.0, 2.0], layers)
        coupled.apply(net, EXAMPLE)
        assert len(net.conv2.weight) == left


def test_information_ranks_channels_for_pruning():
    module, _ = train([InformationDropout({"conv1": {"information": 1}}, strength=0.01)], epochs=6)
    net = module.model
    information = output_transform(net.conv1).information
    assert information.min() > 0
    keeper = net.conv1.weight.detach()[information.argsort(descending=True)[:4].sort().values]
    ChannelPruning({"conv1": {"channels": 0.25}}, Information()).apply(net, EXAMPLE)
    assert torch.equal(net.conv1.weight, keeper)


def test_criteria_without_their_noise_say_what_to_train_with():
    with pytest.raises(CompressError, match=r"no noise of LogNormalDropout; train with it in a stage before"):
        ChannelPruning({"conv1": {"channels": 0.5}}, SignalToNoise()).apply(PlainModule().model, EXAMPLE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VariationalDropout({"bn1": {"variational": 1}}), "layer 'bn1' cannot have this noise"),
        (lambda: VariationalDropout({"conv1": {"variational": 0.5}}), "must be 0 or 1, got 0.5"),
        (lambda: LogNormalDropout({"fc": {"log_normal": 1}}), "layer 'fc' cannot have this noise"),
        (lambda: VariationalDropout(pattern=NofM()), "NofM keeps 2 of 4 weights, .* use Element or Kernel"),
        (lambda: VariationalDropout(end=0.1), r"needs 0 <= warmup\[0\] <= warmup\[1\] <= end <= 1"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(CompressError, match=message):
        make().apply(PlainModule().model, EXAMPLE)


def test_a_batch_norm_without_a_scale_cannot_keep_a_gate():
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6, affine=False), nn.Conv2d(6, 6, 3), nn.Flatten(), nn.Linear(96, 4)
    )
    callback = LogNormalDropout()
    assert [c.layer for c in callback.choices(net, measure.measure(net, EXAMPLE), EXAMPLE)] == ["2"]
    with pytest.raises(CompressError, match=r"layer '0' cannot .* affine=False follows it, .*may name \['2'\]"):
        callback.with_plan(lc.Plan({"0": {"log_normal": 1}})).apply(net, EXAMPLE)


@pytest.mark.parametrize("make", [
    lambda: LogNormalDropout({"conv1": {"log_normal": 1}}), lambda: InformationDropout({"conv1": {"information": 1}}),
    lambda: VariationalDropout({"conv1": {"variational": 1}}),
], ids=["log_normal", "information", "variational"])  # fmt: skip
def test_noise_that_is_on_is_not_saved(make, tmp_path):
    net = PlainModule().model
    make().apply(net, EXAMPLE)
    with pytest.raises(CompressError, match=r"save: layer '(conv1|bn1)' has \w+Noise that has not ended"):
        lc.save(net, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_weight_is_pruned_one_way():
    net = PlainModule().model
    WeightPruning({"conv1": {"density": 0.5}}).apply(net, EXAMPLE)
    with pytest.raises(CompressError, match="apply VariationalDropout before that"):
        VariationalDropout({"conv1": {"variational": 1}}).apply(net, EXAMPLE)


class Stream(IterableDataset):
    """Four batches of eight images, that count how often they were opened."""

    opened = 0

    def __iter__(self):
        self.opened += 1
        for number in range(4):
            generator = torch.Generator().manual_seed(number)
            yield torch.randn(8, 1, 8, 8, generator=generator), torch.randint(4, (8,), generator=generator)


def test_data_without_a_length_are_opened_once_more_than_they_are_read():
    data = Stream()
    callback = LogNormalDropout({"conv1": {"log_normal": 1}}, warmup=(0, 0))
    trainer = Trainer(max_epochs=2, limit_train_batches=4, callbacks=[callback], **QUIET)
    trainer.fit(PlainModule(), DataLoader(data, None))
    assert data.opened <= 2 + 2  # epochs; the example and the count
    assert callback._beta(trainer) == 1 / 32  # of the KL of all images


@pytest.mark.parametrize("make", [
    lambda: LogNormalDropout({"conv1": {"log_normal": 1}}), lambda: VariationalDropout({"conv1": {"variational": 1}}),
    lambda: InformationDropout({"conv1": {"information": 1}}),
], ids=["log normal", "variational", "information"])  # fmt: skip
@pytest.mark.parametrize("end", [{"max_epochs": 2}, {"max_epochs": -1, "max_steps": 8}], ids=["epochs", "steps"])
def test_data_of_unknown_length_are_to_be_given_one(make, end):
    with pytest.raises(CompressError, match=r"data have no length.*limit_train_batches"):
        Trainer(callbacks=[make()], **end, **QUIET).fit(PlainModule(), DataLoader(Stream(), None))
