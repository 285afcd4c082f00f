"""Images held in memory as bytes, in batches whose order and augmentation depend on seed and epoch alone.

So a training that is killed and resumed sees the batches that it would have seen, whatever the global random numbers
do. Whole batches are fetched and augmented at once: for small images, loading per sample costs more than training.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.core.whole_numbers import check_whole


@dataclass(frozen=True)
class Split:
    """Images, uint8, shape ``(n, height, width)`` or ``(n, height, width, channels)``, and labels, shape ``(n,)``."""

    images: np.ndarray
    labels: np.ndarray


class EpochBatches(Sampler[list[int]]):
    """Batches of indices, shuffled anew in each epoch from ``(seed, epoch)``; Lightning calls :meth:`set_epoch`.

    Args:
        length: number of images.
        batch_size: the last, smaller batch is left out, unless it is the only one.
        seed: of order and augmentation.
    """

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Fix the random numbers of the next pass, of order and augmentation."""
        self.generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.length, generator=self.generator).tolist()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size]

    def __len__(self) -> int:
        return max(self.length // self.batch_size, 1)


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """Normalized batches by lists of indices, augmented when there is a generator to draw from."""

    def __init__(self, images: Tensor, labels: Tensor, mean: Tensor, std: Tensor) -> None:
        self.images, self.labels, self.mean, self.std = images, labels, mean, std
        self.shift, self.flip = 0, False
        self.sampler: EpochBatches | None = None

    def augmented(self, sampler: EpochBatches, shift: int, flip: bool) -> _Batches:
        """Shift images at random by up to ``shift`` pixels (black comes in) and, if ``flip``, mirror them."""
        self.sampler, self.shift, self.flip = sampler, shift, flip
        return self

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        if isinstance(indices, int):
            raise CompressError(
                "data: batches were asked for one image at a time, for a sampler was replaced, as the Trainer's "
                "overfit_batches does; give limit_train_batches in its place"
            )
        images = self.images[indices]
        if self.sampler is not None:  # before normalizing: what comes in at the border is black
            images = augment(images, self.shift, self.flip, self.sampler.generator)
        return images.float().div_(255).sub_(self.mean).div_(self.std), self.labels[indices]


def augment(images: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift each image by up to ``shift`` pixels in each direction and mirror half of them.

    Args:
        images: not normalized yet, shape ``(batch, channels, height, width)``; zeros come in at the border.
        shift: largest shift in pixels.
        flip: whether to mirror half of the images.
        generator: draws the shifts and which images are mirrored.
    """
    count, _, height, width = images.shape
    if shift:
        padded = F.pad(images, [shift] * 4)
        offsets = torch.randint(2 * shift + 1, (2, count, 1), generator=generator)
        rows = (torch.arange(height) + offsets[0])[:, None, :, None]
        columns = (torch.arange(width) + offsets[1])[:, None, None, :]
        sample, channel = torch.arange(count)[:, None, None, None], torch.arange(images.shape[1])[None, :, None, None]
        images = padded[sample, channel, rows, columns]
    if flip:
        mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
    return images


class ImageDataModule(LightningDataModule):
    """Train, validation and test images from :meth:`splits`.

    Args:
        num_classes, in_channels, image_size: what the network must fit; checked against the data.
        batch_size: of training; validation and test use four times as much.
        shift: largest random shift of train images, in pixels.
        flip: whether train images are mirrored at random.
        seed: of order and augmentation; the split does not depend on it.

    Raises:
        CompressError: a number is too small, or not whole.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        batch_size: int = 128,
        shift: int = 0,
        flip: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        for name, number in {**sizes, "batch_size": batch_size}.items():
            check_whole(f"data: {name}", number, 1)
        for name, number in {"shift": shift, "seed": seed}.items():
            check_whole(f"data: {name}", number, 0)
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, image_size
        self.batch_size, self.shift, self.flip, self.seed = batch_size, shift, flip, seed
        self.parts: dict[str, tuple[Tensor, Tensor]] = {}

    @abstractmethod
    def splits(self) -> dict[str, Split]:
        """Return the images under ``train``, ``val`` and ``test``; without ``val``, a tenth of train becomes it."""

    def setup(self, stage: str) -> None:
        """Read the images once.

        Raises:
            CompressError: they do not have the stated shape or classes.
        """
        if self.parts:
            return
        splits = self.splits()
        if "val" not in splits:
            splits["train"], splits["val"] = carve(splits["train"], 0.1)
        self.parts = {part: self._tensors(part, split) for part, split in splits.items()}
        pixels = self.parts["train"][0].float().div_(255)
        self.mean = pixels.mean((0, 2, 3)).view(1, -1, 1, 1)
        self.std = pixels.std((0, 2, 3)).clamp_min(1e-3).view(1, -1, 1, 1)

    def _tensors(self, part: str, split: Split) -> tuple[Tensor, Tensor]:
        _check(part, split)
        images = torch.from_numpy(np.ascontiguousarray(split.images))
        images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
        labels = torch.from_numpy(split.labels.astype(np.int64))
        got = (images.shape[1], images.shape[2], int(labels.max()) + 1)
        if got[:2] != (self.in_channels, self.image_size) or got[2] > self.num_classes:
            raise CompressError(
                f"data: the images have {got[0]} channels, {got[1]} pixels and {got[2]} classes; set data.in_channels, "
                f"data.image_size and data.num_classes to that (they are {self.in_channels}, {self.image_size}, "
                f"{self.num_classes})"
            )
        return images, labels

    def _batches(self, part: str) -> _Batches:
        return _Batches(*self.parts[part], self.mean, self.std)

    @override
    def train_dataloader(self) -> DataLoader:
        sampler = EpochBatches(len(self.parts["train"][1]), self.batch_size, self.seed)
        # batch_size=None: the sampler yields whole batches. Lightning calls set_epoch on samplers, not batch samplers.
        return DataLoader(self._batches("train").augmented(sampler, self.shift, self.flip), None, sampler=sampler)

    @override
    def val_dataloader(self) -> DataLoader:
        return self._in_order("val")

    @override
    def test_dataloader(self) -> DataLoader:
        return self._in_order("test")

    def _in_order(self, part: str) -> DataLoader:
        batches = torch.arange(len(self.parts[part][1])).split(4 * self.batch_size)
        return DataLoader(self._batches(part), None, sampler=[batch.tolist() for batch in batches])


def _check(part: str, split: Split) -> None:
    images, labels = split.images, split.labels
    if images.ndim not in (3, 4) or images.shape[1] != images.shape[2] or images.dtype != np.uint8:
        problem = (
            f"must be uint8 of shape (n, size, size) or (n, size, size, channels), got {images.dtype} {images.shape}"
        )
    elif labels.shape != (len(images),):
        problem = f"need one label each, got {len(images)} images and {labels.size} labels"
    elif not len(images):
        problem = "are none"
    elif labels.dtype.kind not in "iu" or labels.min() < 0:
        problem = f"need whole numbers from 0 as labels, got {labels.dtype} from {labels.min()}"
    else:
        return
    raise CompressError(f"data: the {part} images {problem}")


def carve(split: Split, share: float, seed: int = 0) -> tuple[Split, Split]:
    """Split stratified by class, the second part with about ``share`` of each; the same at each call."""
    rng = np.random.default_rng(seed)
    labels = split.labels
    second = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        second[members[: round(share * len(members))]] = True
    return Split(split.images[~second], labels[~second]), Split(split.images[second], labels[second])
