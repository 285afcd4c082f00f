"""Images of any size in folders: ``ROOT/train/CLASS/*.jpg``, the same under ``ROOT/test``, and ``ROOT/val`` or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import numpy as np
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.vision.data.images import ImageDataModule, Split


@final
class ImageFolder(ImageDataModule):
    """Images are resized to ``image_size`` and held in memory: 100,000 at 64 pixels take 1.2 GB.

    Args:
        root: the folder. Other arguments as for :class:`ImageDataModule`.

    Raises:
        CompressError: a part is missing or empty, or has other classes than train.
    """

    def __init__(
        self, root: str | Path, num_classes: int, image_size: int, in_channels: int = 3, batch_size: int = 128,
        shift: int = 0, flip: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(num_classes, in_channels, image_size, batch_size, shift, flip, seed)
        self.root = Path(root)

    @override
    def splits(self) -> dict[str, Split]:
        parts = [part for part in ("train", "val", "test") if part != "val" or (self.root / part).is_dir()]
        sources = {part: self._open(self.root / part) for part in parts}
        for part, source in sources.items():
            if source.classes != sources["train"].classes:
                raise CompressError(
                    f"data: {str(self.root / part)!r} must have the classes of train, {sources['train'].classes}; it "
                    f"has {source.classes}"
                )
        return {part: self._read(source) for part, source in sources.items()}

    def _open(self, folder: Path) -> Any:
        from torchvision import datasets

        try:
            return datasets.ImageFolder(folder)
        except (FileNotFoundError, OSError) as error:
            raise CompressError(f"data: {str(folder)!r} must hold one folder of images per class ({error})") from error

    def _read(self, source: Any) -> Split:
        size, mode = (self.image_size, self.image_size), "RGB" if self.in_channels == 3 else "L"
        images = np.stack([np.asarray(image.convert(mode).resize(size)) for image, _ in source])
        return Split(images, np.asarray(source.targets))
