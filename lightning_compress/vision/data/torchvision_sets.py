"""Small-image sets of torchvision, downloaded at first use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.vision.data.images import ImageDataModule, Split


class TorchvisionImages(ImageDataModule):
    """A set whose torchvision class keeps all images in ``data``.

    Args:
        make: ``(root, part, download) -> torchvision data set``, for part ``train`` and ``test``.
        root: where the downloads are kept. Other arguments as for :class:`ImageDataModule`.

    Raises:
        CompressError: the download failed.
    """

    def __init__(
        self, make: Callable[..., Any], num_classes: int, in_channels: int, image_size: int, root: str | Path = "data",
        batch_size: int = 128, shift: int = 0, flip: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(num_classes, in_channels, image_size, batch_size, shift, flip, seed)
        self.make, self.root = make, Path(root)

    @override
    def splits(self) -> dict[str, Split]:
        return {part: self._read(part) for part in ("train", "test")}

    def _read(self, part: str) -> Split:
        try:
            source = self.make(self.root, part, True)
        except (OSError, RuntimeError) as error:
            raise CompressError(
                f"data: could not download to {str(self.root)!r} ({' '.join(str(error).split())}); put the files "
                f"there by hand, unpacked as torchvision does, or use data=npz data.path=FILE"
            ) from error
        images = np.asarray(source.data)
        if images.ndim == 4 and images.shape[1] == 3:  # SVHN keeps channels first
            images = images.transpose(0, 2, 3, 1)
        labels = source.labels if hasattr(source, "labels") else source.targets
        return Split(images, np.asarray(labels))


def cifar10(root: Path, part: str, download: bool) -> Any:
    """Load CIFAR-10 (Krizhevsky 2009)."""
    from torchvision.datasets import CIFAR10

    return CIFAR10(root, part == "train", download=download)


def cifar100(root: Path, part: str, download: bool) -> Any:
    """Load CIFAR-100 (Krizhevsky 2009)."""
    from torchvision.datasets import CIFAR100

    return CIFAR100(root, part == "train", download=download)


def fashion_mnist(root: Path, part: str, download: bool) -> Any:
    """Load Fashion-MNIST (Xiao et al. 2017)."""
    from torchvision.datasets import FashionMNIST

    return FashionMNIST(root, part == "train", download=download)


def svhn(root: Path, part: str, download: bool) -> Any:
    """Load SVHN (Netzer et al. 2011)."""
    from torchvision.datasets import SVHN

    return SVHN(root, part, download=download)
