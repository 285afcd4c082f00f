"""The mask of a weight: a transform that zeroes what was pruned, at each access.

Neither momentum nor weight decay can bring a masked weight back, because it is the product that the network sees, and
the raw weight under a zero gets no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.core.profile import Profile
from lightning_compress.surgery.transforms import WEIGHT, Transform, weight_transforms


class Mask(Transform):
    """``weight * mask``.

    Args:
        shape: of the weight.

    Attributes:
        mask: bool buffer of that shape, all true at first.
        begun: whether a training has begun to move it: from then on it only loses weights, in later trainings too.
        settled: whether it stays as it is.
    """

    kind: ClassVar[str] = "mask"

    mask: Tensor
    begun: Tensor
    settled: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(tuple(shape), dtype=torch.bool))
        self.register_buffer("begun", torch.tensor(False))
        self.register_buffer("settled", torch.tensor(False))

    @property
    def moving(self) -> bool:
        """Whether the mask still moves in this training."""
        return bool(self.begun) and not self.settled

    @override
    def config(self) -> dict[str, Any]:
        return {"shape": list(self.mask.shape)}

    @override
    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def mask_of(layer: nn.Module, key: str = WEIGHT) -> Tensor | None:
    """Return the mask of a weight of a layer, if it has one: True where a weight is kept, in its shape.

    Args:
        layer: any module.
        key: name of the weight, for layers with several.
    """
    return next((t.mask for t in weight_transforms(layer, key) if isinstance(t, Mask)), None)


def has_moving_mask(layer: nn.Module) -> bool:
    """Return whether ``layer.weight`` has a mask, or noise that becomes one, which a training still moves."""
    return any(t.moving for t in weight_transforms(layer) if isinstance(t, Mask))


def measured(net: nn.Module, profile: Profile) -> Profile:
    """Return the profile with the densities that the masks of the network have now."""
    changed = []
    for layer in profile.weighted:
        mask = mask_of(net.get_submodule(layer.name))
        if mask is not None:
            density = int(mask.sum()) / mask.numel()
            changed.append(replace(layer, density=density, mask_unit=max(layer.mask_unit, 1) if density < 1 else 0))
    return profile.update(changed)
