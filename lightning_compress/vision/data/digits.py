"""scikit-learn's handwritten digits: 1,797 real 8x8 images, part of the library, so that a first run downloads nothing.

Source: Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits (its test part).
"""

from __future__ import annotations

from typing import final

import numpy as np
from sklearn.datasets import load_digits
from typing_extensions import override

from lightning_compress.vision.data.images import ImageDataModule, Split, carve


@final
class Digits(ImageDataModule):
    """60 % train, 20 % validation, 20 % test, stratified; arguments as for :class:`ImageDataModule`."""

    @override
    def splits(self) -> dict[str, Split]:
        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)
        rest, test = carve(Split(images, digits.target), 0.2)
        train, val = carve(rest, 0.25, seed=1)
        return {"train": train, "val": val, "test": test}
