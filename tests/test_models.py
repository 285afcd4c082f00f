"""The networks have the sizes of their papers, and the classifier trains, resumes and reloads."""

from __future__ import annotations

import pytest
import torch
from lightning import Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_compress.surgery import measure
from lightning_compress.testing.toys import QUIET
from lightning_compress.vision.data.digits import Digits
from lightning_compress.vision.models.classifier import ImageClassifier
from lightning_compress.vision.models.lenet import LeNet5
from lightning_compress.vision.models.resnet_cifar import resnet8, resnet20, resnet56
from lightning_compress.vision.models.resnet_deep import resnet18, resnet34, resnet50
from lightning_compress.vision.models.vgg_cifar import vgg16_bn, vgg19_bn


def resnet_parameters(blocks: int, classes: int, channels: int, w: int) -> int:
    """From the paper's table: a conv, n blocks of two convs a stage, a 1x1 conv where the width doubles, an fc."""
    first = 9 * channels * w + 2 * w
    total, before = first, w
    for width in (w, 2 * w, 4 * w):
        total += 9 * before * width + (2 * blocks - 1) * 9 * width * width + 2 * blocks * 2 * width
        total += (before * width + 2 * width) if before != width else 0
        before = width
    return total + (before + 1) * classes


def vgg_parameters(widths: list[int], classes: int, channels: int) -> int:
    total, before = 0, channels
    for width in widths:
        total += 9 * before * width + 2 * width
        before = width
    return total + (before + 1) * classes


VGG16 = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
VGG19 = [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(("make", "blocks"), [(resnet8, 1), (resnet20, 3), (resnet56, 9)])
@pytest.mark.parametrize(("classes", "channels", "width"), [(10, 3, 16), (7, 1, 12)])
def test_resnets_have_the_parameters_of_the_formula(make, blocks, classes, channels, width):
    assert count(make(classes, channels, width)) == resnet_parameters(blocks, classes, channels, width)


@pytest.mark.parametrize(("make", "widths"), [(vgg16_bn, VGG16), (vgg19_bn, VGG19)])
def test_vggs_have_the_parameters_of_the_formula(make, widths):
    assert count(make(100, 3)) == vgg_parameters(widths, 100, 3)


@pytest.mark.parametrize(("make", "parameters"), [
    (resnet8, 78_042),
    (resnet20, 269_722 + 2_752),      # option A as published (0.27 M), plus two 1x1 shortcuts with their batch norms
    (resnet56, 853_018 + 2_752),      # the same, published as 0.85 M
    (vgg16_bn, 14_728_266 - 4_224),   # with torchvision's conv biases, less those
    (vgg19_bn, 20_035_018),           # paper 1 and Network Slimming: 20.04 M
    (LeNet5, 430_500 + 580),          # Han et al.: 430.5 K weights, and the biases
    (resnet18, 11_689_512 - 9_408 + 1_728 - 513_000 + 5_130),      # torchvision's, with another first and last layer
    (resnet34, 21_797_672 - 9_408 + 1_728 - 513_000 + 5_130),
    (resnet50, 25_557_032 - 9_408 + 1_728 - 2_049_000 + 20_490),
])  # fmt: skip
def test_known_parameter_counts(make, parameters):
    assert count(make()) == parameters


@pytest.mark.parametrize(("make", "macs"), [
    # 32x32x3: first conv, then per stage 2n convs at the stage's area (the first of stages 2 and 3 has half the input
    # channels), two 1x1 shortcuts, and the fc.
    (resnet20, 432 * 1024 + 6 * 2304 * 1024 + 5 * 9216 * 256 + 4608 * 256 + 5 * 36864 * 64 + 18432 * 64
               + 512 * 256 + 2048 * 64 + 640),
    (vgg19_bn, 1728 * 1024 + 36864 * 1024 + 73728 * 256 + 147456 * 256 + 294912 * 64 + 3 * 589824 * 64
               + 1179648 * 16 + 3 * 2359296 * 16 + 4 * 2359296 * 4 + 5120),
])  # fmt: skip
def test_macs_are_those_counted_by_hand(make, macs):
    assert measure.measure(make(), torch.zeros(1, 3, 32, 32)).macs == macs


@pytest.mark.parametrize("size", [8, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_resnets_take_images_of_any_size(size, channels):
    assert resnet8(5, channels).eval()(torch.zeros(2, channels, size, size)).shape == (2, 5)


@pytest.mark.parametrize("channels", [1, 3])
def test_deep_resnets_keep_the_places_of_small_images_in_their_first_stage(channels):
    layers = {layer.name: layer for layer in measure.measure(resnet18(10, channels), torch.zeros(1, channels, 32, 32))}
    assert layers["layer1.0.conv1"].macs == 64 * 64 * 9 * 32 * 32


@pytest.mark.parametrize("make", [resnet20, vgg16_bn])
def test_every_batch_norm_can_be_folded_into_the_layer_before_it(make):
    profile = measure.measure(make(), torch.zeros(1, 3, 32, 32))
    assert all(layer.follows for layer in profile if layer.kind == "norm")


def trainer(epochs: int, **settings) -> Trainer:
    return Trainer(max_epochs=epochs, num_sanity_val_steps=0, **{**QUIET, **settings})


def classifier(width: int = 4, **settings) -> ImageClassifier:
    seed_everything(0, verbose=False)
    return ImageClassifier(resnet8(10, 1, width), 10, **settings)


def digits() -> Digits:
    return Digits(10, 1, 8, batch_size=128, shift=1, seed=3)


def test_it_learns_and_logs_what_the_application_reads():
    module, data = classifier(width=8), digits()
    run = trainer(8)
    run.fit(module, datamodule=data)
    assert {"train_loss", "val_loss", "val_acc"} <= run.callback_metrics.keys()
    found = run.test(module, datamodule=data, verbose=False)[0]
    assert found["test_acc"] > 0.8
    data.setup("test")
    x, y = (torch.cat(parts) for parts in zip(*data.test_dataloader(), strict=True))
    with torch.no_grad():
        assert found["test_acc"] == pytest.approx((module.eval()(x).argmax(1) == y).double().mean().item())


def test_the_learning_rate_goes_up_to_its_peak_and_down_to_nothing():
    module = classifier(lr=0.2, warmup=0.25)
    rates = []
    module.on_train_batch_start = lambda *_: rates.append(module.optimizers().param_groups[0]["lr"])
    trainer(2).fit(module, datamodule=digits())
    assert len(rates) == 2 * (len(digits_train()) // 128)
    assert max(rates) == pytest.approx(0.2, rel=0.05)
    assert rates.index(max(rates)) == pytest.approx(0.25 * len(rates), abs=1)
    assert rates[-1] < 0.01 * max(rates)


def digits_train() -> torch.Tensor:
    data = digits()
    data.setup("fit")
    return data.parts["train"][1]


@pytest.mark.parametrize("steps", range(1, 12))
def test_any_number_of_steps_has_a_schedule(steps):
    module = ImageClassifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), 2, lr=0.1)
    images = TensorDataset(torch.randn(36, 1, 2, 2), torch.arange(36) % 2)
    run = Trainer(max_steps=steps, **QUIET)
    run.fit(module, DataLoader(images, 3))
    assert run.global_step == steps
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_resumed_training_equals_uninterrupted_training(tmp_path):
    whole = classifier()
    trainer(4).fit(whole, datamodule=digits())

    class Stop(RuntimeError):
        pass

    killed = classifier()
    run = trainer(4)

    def die():
        if run.current_epoch == 2:
            raise Stop

    killed.on_train_epoch_start = die
    killed.on_train_epoch_end = lambda: run.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(Stop):
        run.fit(killed, datamodule=digits())
    resumed = classifier()
    torch.manual_seed(99)  # the global random numbers must not matter
    trainer(4).fit(resumed, datamodule=digits(), ckpt_path=tmp_path / "last.ckpt")
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_a_checkpoint_holds_plain_types_only(tmp_path):
    module = classifier()
    run = trainer(1)
    run.fit(module, datamodule=digits())
    run.save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    fresh = classifier()
    fresh.load_state_dict(state)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(fresh.eval()(x), module.eval()(x))
