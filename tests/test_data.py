"""Batches are a function of seed and epoch, parts do not overlap, and bad sources are refused in a sentence."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import LightningModule, Trainer
from omegaconf import OmegaConf
from torch import nn

from lightning_compress.data.digits import Digits
from lightning_compress.data.imagefolder import ImageFolder
from lightning_compress.data.images import EpochBatches, Split, augment, carve
from lightning_compress.data.npz import Npz
from lightning_compress.data.torchvision_sets import TorchvisionImages, cifar10, fashion_mnist
from lightning_compress.errors import CompressError
from lightning_compress.testing.toys import QUIET

CONF = Path(__file__).parent.parent / "conf"


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


def test_only_train_images_are_augmented_and_all_are_normalised_by_train_statistics():
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


# Sources


def arrays(channels: int = 3, **more) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (8, 8, channels) if channels > 1 else (8, 8)
    found = {}
    for part, count in (("train", 40), ("val", 10), ("test", 10)):
        found[f"{part}_images"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        found[f"{part}_labels"] = np.arange(count).reshape(-1, 1) % 4
    return {**found, **more}


def npz(path, channels=3, **overrides) -> Npz:
    data = Npz(path, **{"num_classes": 4, "in_channels": channels, "image_size": 8, "batch_size": 16, **overrides})
    data.setup("fit")
    return data


@pytest.mark.parametrize("channels", [1, 3])
def test_npz_reads_the_medmnist_layout(tmp_path, channels):
    stored = arrays(channels)
    np.savez(tmp_path / "a.npz", **stored)
    data = npz(tmp_path / "a.npz", channels)
    for part in ("train", "val", "test"):
        images, labels = data.parts[part]
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy().reshape(stored[f"{part}_images"].shape),
                              stored[f"{part}_images"])  # fmt: skip
        assert labels.tolist() == stored[f"{part}_labels"].flatten().tolist()
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (16, channels, 8, 8)
    assert x.dtype == torch.float32
    assert y.shape == (16,)


def test_without_val_a_stratified_tenth_of_train_becomes_it(tmp_path):
    stored = {key: value for key, value in arrays().items() if not key.startswith("val")}
    np.savez(tmp_path / "a.npz", **stored)
    data = npz(tmp_path / "a.npz")
    assert len(data.parts["train"][1]) == 36
    assert torch.bincount(data.parts["val"][1]).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(("change", "message"), [
    ({"num_classes": 3}, r"4 classes; set data.in_channels, data.image_size and data.num_classes"),
    ({"image_size": 9}, "8 pixels"),
    ({"in_channels": 1}, "3 channels"),
])  # fmt: skip
def test_data_that_do_not_fit_the_configuration_are_refused(tmp_path, change, message):
    np.savez(tmp_path / "a.npz", **arrays())
    with pytest.raises(CompressError, match=message):
        npz(tmp_path / "a.npz", **change)


@pytest.mark.parametrize(("more", "message"), [
    ({"train_images": np.zeros((40, 8, 8, 3), np.float32)}, "uint8"),
    ({"train_images": np.zeros((40, 8, 10, 3), np.uint8)}, r"\(40, 8, 10, 3\)"),
    ({"train_images": np.zeros((40, 8), np.uint8)}, "shape"),
    ({"train_labels": np.zeros(39, np.int64)}, "40 images and 39 labels"),
    ({"train_labels": np.full(40, -1)}, "-1"),
    ({"train_labels": np.full(40, 0.5)}, "whole numbers"),
    ({"train_labels": np.zeros((40, 2), np.int64)}, "one label each, got 40 images and 80 labels"),
    ({"test_images": np.zeros((0, 8, 8, 3), np.uint8), "test_labels": np.zeros(0, np.int64)}, "test images are none"),
])  # fmt: skip
def test_arrays_that_are_no_images_are_refused(tmp_path, more, message):
    np.savez(tmp_path / "a.npz", **arrays(**more))
    with pytest.raises(CompressError, match=message):
        npz(tmp_path / "a.npz")


def test_a_missing_file_missing_arrays_and_a_foreign_file_are_named(tmp_path):
    with pytest.raises(CompressError, match=r"no file .*a\.npz'; set data\.path"):
        npz(tmp_path / "a.npz")
    stored = arrays()
    del stored["test_labels"]
    np.savez(tmp_path / "b.npz", **stored)
    with pytest.raises(CompressError, match=r"has no \['test_labels'\]"):
        npz(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_bytes(b"not a zip file")
    with pytest.raises(CompressError, match=r"c\.npz"):
        npz(tmp_path / "c.npz")


def folder(root: Path, parts=("train", "test"), classes=("cat", "dog")) -> Path:
    from PIL import Image

    for part in parts:
        for number, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for i in range(10):
                Image.new("RGB", (12, 20), (40 * number, 20 * i, 0)).save(root / part / name / f"{i}.png")
    return root


def test_image_folders_are_resized_and_labelled_by_folder(tmp_path):
    data = ImageFolder(folder(tmp_path), 2, 8, batch_size=4)
    data.setup("fit")
    assert {part: len(labels) for part, (_, labels) in data.parts.items()} == {"train": 18, "val": 2, "test": 20}
    images, labels = data.parts["test"]
    assert images.shape == (20, 3, 8, 8)
    assert images[:, 0, 0, 0].tolist() == (40 * labels).tolist()


@pytest.mark.parametrize("parts", [(), ("train",)])
def test_missing_folders_are_named(tmp_path, parts):
    data = ImageFolder(folder(tmp_path, parts), 2, 8)
    with pytest.raises(CompressError, match=r"must hold one folder of images per class"):
        data.setup("fit")


def test_parts_with_other_classes_are_refused(tmp_path):
    folder(tmp_path, ("train",))
    data = ImageFolder(folder(tmp_path, ("test",), ("dog", "fox")), 2, 8)
    with pytest.raises(CompressError, match=r"'fox'"):
        data.setup("fit")


def test_a_failed_download_names_the_remedy(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    data = TorchvisionImages(cifar10, 10, 3, 32, tmp_path)
    with pytest.raises(CompressError, match=r"could not download .*Network is unreachable.*data=npz"):
        data.setup("fit")


def test_files_of_fashion_mnist_that_are_there_need_no_download(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        heads = {
            "images-idx3": struct.pack(">IIII", 2051, count, 28, 28),
            "labels-idx1": struct.pack(">II", 2049, count),
        }
        for (name, head), values in zip(heads.items(), (images, labels), strict=True):
            (raw / f"{part}-{name}-ubyte").write_bytes(head + values.tobytes())
    data = TorchvisionImages(fashion_mnist, 10, 1, 28, tmp_path)
    data.setup("fit")
    assert np.array_equal(data.parts["test"][0][:, 0].numpy(), images)
    assert data.parts["test"][1].tolist() == labels.tolist()


# Configuration


@pytest.mark.parametrize("file", sorted((CONF / "data").glob("*.yaml")), ids=lambda file: file.stem)
def test_each_data_configuration_makes_a_data_module_that_states_its_shape(file, tmp_path):
    config = OmegaConf.create(
        {"data": OmegaConf.load(file), "seed": 7, "cache_dir": str(tmp_path)}, flags={"allow_objects": True}
    )
    for key, value in {"root": str(tmp_path), "path": "x.npz", "num_classes": 5}.items():
        if OmegaConf.is_missing(config.data, key):
            config.data[key] = value
    data = instantiate(config.data)
    assert (data.num_classes, data.in_channels, data.image_size) == (
        config.data.num_classes, config.data.in_channels, config.data.image_size
    )  # fmt: skip
    assert data.seed == 7


@pytest.mark.parametrize("file", sorted((CONF / "model").glob("*.yaml")), ids=lambda file: file.stem)
def test_each_model_configuration_fits_the_data(file):
    config = OmegaConf.create(
        {"data": {"num_classes": 7, "in_channels": 3, "image_size": 32}, "model": OmegaConf.load(file)}
    )
    module = instantiate(config.model)
    assert module.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
