"""Batches are a function of seed and epoch, and parts do not overlap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import LightningModule, Trainer
from torch import nn

from lightning_compress.core.errors import CompressError
from lightning_compress.testing.toys import QUIET
from lightning_compress.vision.data.digits import Digits
from lightning_compress.vision.data.images import EpochBatches, Split, augment, carve
from lightning_compress.vision.models.classifier import ImageClassifier
from lightning_compress.vision.models.resnet_cifar import resnet8


def digits(seed: int = 0, **settings_) -> Digits:
    data = Digits(10, 1, 8, batch_size=64, shift=1, seed=seed, **settings_)
    data.setup("fit")
    return data


def assert_same_batches(first, second):
    assert len(first) == len(second)
    for (x, y), (x2, y2) in zip(first, second, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


class Recorder(LightningModule):
    """Keeps every train batch it sees, and stops at the start of an epoch if told to."""

    def __init__(self, stop_at: int = -1) -> None:
        super().__init__()
        self.net, self.stop_at = nn.Linear(1, 1), stop_at
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        return self.net.weight.sum()

    def validation_step(self, batch, batch_idx):
        pass

    def test_step(self, batch, batch_idx):
        pass

    def on_train_epoch_start(self):
        if self.current_epoch == self.stop_at:
            raise InterruptedError

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(epochs: int, **kwargs) -> Trainer:
    return Trainer(max_epochs=epochs, **{**QUIET, **kwargs})


def seen_by_lightning(epochs: int, data, ckpt=None) -> list:
    module = Recorder()
    trainer(epochs).fit(module, datamodule=data, ckpt_path=ckpt)
    return module.seen


# Order and augmentation


@given(st.integers(1, 200), st.integers(1, 70), st.integers(0, 2**31), st.integers(0, 1000))
def test_an_epoch_is_a_permutation_cut_into_batches(length, batch_size, seed, epoch):
    sampler = EpochBatches(length, batch_size, seed)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    indices = [i for batch in batches for i in batch]
    assert len(set(indices)) == len(indices)
    assert set(indices) <= set(range(length))
    assert all(len(batch) == min(batch_size, length) for batch in batches)
    assert length - len(indices) < batch_size


def test_order_differs_between_epochs_and_seeds_and_repeats_for_the_same():
    def order(seed, epoch):
        sampler = EpochBatches(100, 10, seed)
        sampler.set_epoch(epoch)
        return tuple(map(tuple, sampler))

    assert order(0, 3) == order(0, 3)
    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


def test_lightning_sees_the_same_batches_whatever_the_global_random_numbers():
    torch.manual_seed(1)
    first = seen_by_lightning(2, digits())
    torch.manual_seed(2)
    np.random.seed(3)
    second = seen_by_lightning(2, digits())
    assert_same_batches(first, second)
    half = len(first) // 2
    assert not torch.equal(first[0][0], first[half][0])


def test_another_seed_gives_other_batches_of_the_same_parts():
    first, second = digits(0), digits(1)
    assert not torch.equal(next(iter(first.train_dataloader()))[0], next(iter(second.train_dataloader()))[0])
    for part in ("train", "val", "test"):
        assert torch.equal(first.parts[part][0], second.parts[part][0])


def test_a_resumed_run_sees_the_batches_of_the_epochs_that_are_left(tmp_path):
    whole = seen_by_lightning(4, digits())
    killed = Recorder(stop_at=2)
    run = trainer(4)
    killed.on_train_epoch_end = lambda: run.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(InterruptedError):
        run.fit(killed, datamodule=digits())
    resumed = seen_by_lightning(4, digits(), tmp_path / "last.ckpt")
    assert_same_batches(whole, killed.seen + resumed)


def test_a_loader_that_was_read_before_gives_the_same_epochs_as_a_fresh_one():
    data = digits()
    loader = data.train_dataloader()
    next(iter(loader))
    module = Recorder()
    trainer(1).fit(module, loader, data.val_dataloader())
    assert_same_batches(module.seen, seen_by_lightning(1, digits()))


def test_shifts_are_those_of_a_padded_image():
    images = torch.rand(200, 2, 5, 6)
    moved = augment(images, 1, False, torch.Generator().manual_seed(0))
    padded = nn.functional.pad(images, [1] * 4)
    seen = set()
    for image, original in zip(moved, padded, strict=True):
        found = [(i, j) for i in range(3) for j in range(3) if torch.equal(image, original[:, i : i + 5, j : j + 6])]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == 9


def test_mirroring_mirrors_about_half_and_leaves_the_rest():
    images = torch.rand(400, 1, 4, 4)
    moved = augment(images, 0, True, torch.Generator().manual_seed(0))
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(moved, images, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(moved, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 150 < sum(mirrored) < 250


def test_only_train_images_are_augmented_and_all_are_normalized_by_train_statistics():
    data = digits()
    pixels = data.parts["train"][0].double() / 255
    images, labels = data.parts["val"]
    x, y = (torch.cat(parts) for parts in zip(*data.val_dataloader(), strict=True))
    expected = (images.double() / 255 - pixels.mean()) / pixels.std()
    assert torch.allclose(x.double(), expected, atol=1e-5)
    assert torch.equal(y, labels)
    plain = Digits(10, 1, 8, batch_size=len(pixels))
    plain.setup("fit")
    batch, _ = next(iter(plain.train_dataloader()))
    assert abs(batch.mean()) < 1e-4
    assert batch.std() == pytest.approx(1, abs=1e-4)


# Parts


def test_digits_has_three_stratified_parts_that_share_no_image():
    data = digits()
    sizes = {part: len(labels) for part, (_, labels) in data.parts.items()}
    assert sum(sizes.values()) == 1797
    assert abs(sizes["test"] - 360) < 10
    assert abs(sizes["val"] - 360) < 10
    for images, labels in data.parts.values():
        counts = torch.bincount(labels, minlength=10)
        assert counts.max() - counts.min() <= 0.12 * counts.max()
        assert images.dtype == torch.uint8
    rows = torch.cat([images.flatten(1) for images, _ in data.parts.values()])
    assert len(rows.unique(dim=0)) == 1797


@settings(max_examples=30)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.sampled_from([0.1, 0.2, 0.5]))
def test_carving_is_stratified_complete_and_repeatable(labels, share):
    split = Split(np.arange(len(labels))[:, None, None], np.array(labels))
    first, second = carve(split, share)
    assert sorted([*first.images.flatten(), *second.images.flatten()]) == list(range(len(labels)))
    for label in set(labels):
        assert (second.labels == label).sum() == round(share * labels.count(label))
    for part in (first, second):
        assert [labels[i] for i in part.images.flatten()] == part.labels.tolist()
    again = carve(split, share)
    assert all(np.array_equal(a.images, b.images) for a, b in zip((first, second), again, strict=True))


def test_training_never_opens_the_test_loader():
    data = digits()
    opened = []
    data.test_dataloader = lambda: opened.append(True)
    trainer(1).fit(Recorder(), datamodule=data)
    trainer(1).validate(Recorder(), datamodule=data, verbose=False)
    assert opened == []


def test_what_a_shift_brings_in_is_black_as_in_a_crop_of_the_padded_raw_image():
    class Bright(Digits):
        def splits(self) -> dict[str, Split]:
            return {part: Split(s.images // 2 + 100, s.labels) for part, s in super().splits().items()}

    data = Bright(10, 1, 8, batch_size=64, shift=2)
    data.setup("fit")
    raw = torch.cat([x for x, _ in data.train_dataloader()]) * data.std + data.mean
    assert raw.min() == pytest.approx(0, abs=1e-5)
    assert raw[raw > 0.01].min() >= 100 / 255 - 1e-5


def test_a_trainer_that_replaces_the_sampler_is_told_what_to_do():
    trainer = Trainer(max_epochs=1, overfit_batches=1, **QUIET)
    with pytest.raises(CompressError, match="give limit_train_batches in its place"):
        trainer.fit(ImageClassifier(resnet8(in_channels=1, width=2), 10), digits())
