"""Weights that go through codebooks: when these get their codes, and from what is kept of the weight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from lightning_compress.core.errors import CompressError
from lightning_compress.quantization.quantizers.codebook import Codebook
from lightning_compress.surgery.mask import has_moving_mask, mask_of
from lightning_compress.surgery.matrices import weight_place
from lightning_compress.surgery.row_layout import as_rows, weight_rows
from lightning_compress.surgery.transforms import weight_transforms


@dataclass(frozen=True, eq=False)
class CodedWeight:
    """A weight that goes through a codebook, or will.

    Args:
        name: of the weight in a plan.
        layer: that has it.
        key: its name there.
        codebook: its own.
    """

    name: str
    layer: nn.Module
    key: str
    codebook: Codebook

    def waits(self, first_epoch: bool) -> bool:
        """Return whether it is too early for codes.

        It is while a schedule or noise, whose callback comes first, moves the mask of the layer, and an epoch for a
        layer that begins with zeros alone.

        Args:
            first_epoch: whether the training is in its first epoch.
        """
        return has_moving_mask(self.layer) or (first_epoch and not bool(self.codebook.values.any()))

    def give_codes(self) -> None:
        """Set the codebook and its codes for what is kept of the weight.

        Raises:
            CompressError: the weight holds NaN or infinity.
        """
        weight, mask = weight_rows(self.layer, self.key).detach(), mask_of(self.layer, self.key)
        if not weight.isfinite().all():
            raise CompressError(
                f"quantization: the weight of layer {self.name!r} holds NaN or infinity, for which there is no "
                f"codebook: its training diverged; start from an earlier checkpoint, or lower the learning rate"
            )
        self.codebook.initialize(weight, None if mask is None else as_rows(self.layer, mask))


def coded_weights(net: nn.Module, names: Iterable[str]) -> list[CodedWeight]:
    """Return those of some weights that go through codebooks.

    Args:
        net: the network.
        names: of the weights, as plans have them.
    """
    places = {name: weight_place(net, name) for name in names}
    return [
        CodedWeight(name, *place, transform)
        for name, place in places.items()
        for transform in weight_transforms(*place)
        if isinstance(transform, Codebook)
    ]
