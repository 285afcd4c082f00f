"""Test where images come from: each source gives what it has, and bad ones are refused in a sentence."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lightning_compress.core.errors import CompressError
from lightning_compress.vision.data.imagefolder import ImageFolder
from lightning_compress.vision.data.npz import Npz
from lightning_compress.vision.data.torchvision_sets import TorchvisionImages, cifar10, fashion_mnist

CONF = Path(__file__).parent.parent / "conf"


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
        assert np.array_equal(
            images.permute(0, 2, 3, 1).numpy().reshape(stored[f"{part}_images"].shape), stored[f"{part}_images"]
        )
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 3}, r"4 classes; set data.in_channels, data.image_size and data.num_classes"),
        ({"image_size": 9}, "8 pixels"),
        ({"in_channels": 1}, "3 channels"),
    ],
)
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
        config.data.num_classes,
        config.data.in_channels,
        config.data.image_size,
    )
    assert data.seed == 7


@pytest.mark.parametrize("file", sorted((CONF / "model").glob("*.yaml")), ids=lambda file: file.stem)
def test_each_model_configuration_fits_the_data(file):
    data = {"data": {"num_classes": 7, "in_channels": 3, "image_size": 32}}
    config = OmegaConf.merge(data, OmegaConf.load(file))
    module = instantiate(config.model)
    assert config.finetune.lr < module.lr
    assert module.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
