"""Images from one ``.npz`` file in the MedMNIST layout: ``train_images``, ``train_labels``, ``val_*``, ``test_*``."""

from __future__ import annotations

from pathlib import Path
from typing import final
from zipfile import BadZipFile

import numpy as np
import torch
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.vision.data.images import ImageDataModule, Split


@final
class Npz(ImageDataModule):
    """Images of shape ``(n, size, size)`` or ``(n, size, size, channels)``, uint8; labels ``(n,)`` or ``(n, 1)``.

    Args:
        path: of the file; ``val_*`` may be missing. Other arguments as for :class:`ImageDataModule`.
        normalize: by mean and standard deviation of the train images; else pixels stay 0 to 255.

    Raises:
        CompressError: the file is missing or no ``.npz`` file, or has no train or test images.
    """

    def __init__(
        self, path: str | Path, num_classes: int, in_channels: int, image_size: int, batch_size: int = 128,
        shift: int = 0, flip: bool = False, seed: int = 0, normalize: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(num_classes, in_channels, image_size, batch_size, shift, flip, seed)
        self.normalize = normalize
        self.path = Path(path)

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if not self.normalize:
            self.mean, self.std = torch.zeros_like(self.mean), torch.full_like(self.std, 1 / 255)

    @override
    def splits(self) -> dict[str, Split]:
        if not self.path.is_file():
            raise CompressError(f"data: there is no file {str(self.path)!r}; set data.path")
        try:
            with np.load(self.path) as stored:
                arrays = {key: stored[key] for key in stored if key.rpartition("_")[0] in ("train", "val", "test")}
        except (OSError, ValueError, EOFError, BadZipFile, AttributeError, TypeError) as error:
            raise CompressError(f"data: {str(self.path)!r} is no .npz file of plain arrays ({error})") from error
        parts = [part for part in ("train", "val", "test") if part != "val" or "val_images" in arrays]
        missing = [key for part in parts for key in (f"{part}_images", f"{part}_labels") if key not in arrays]
        if missing:
            raise CompressError(f"data: {str(self.path)!r} has no {missing}; it has {sorted(arrays)}")
        return {part: Split(arrays[f"{part}_images"], arrays[f"{part}_labels"].flatten()) for part in parts}
