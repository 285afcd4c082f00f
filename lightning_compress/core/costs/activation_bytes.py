"""Peak memory of activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from lightning_compress.core.activations import peak_values
from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.profile import Profile

FLOAT_BYTES = 4


@dataclass(frozen=True)
class ActivationBytes(Cost):
    """Bytes of activations that are alive at once, at most, for one sample.

    A lower bound of what an interpreter needs that runs operations one by one; with the size of the file it decides
    whether a network fits a microcontroller. A value takes one byte where weights and activations of all layers have 8
    bits or fewer, so that the network can be deployed in integers, and four bytes elsewhere.

    Args:
        integer: count one byte a value now, for a network that a later stage quantizes.
    """

    name: ClassVar[str] = "activation_bytes"
    unit: ClassVar[str] = "bytes"
    label: ClassVar[str] = "activations alive at once"
    additive: ClassVar[bool] = False

    integer: bool = False

    @override
    def __call__(self, profile: Profile) -> float:
        narrow = all(layer.weight_bits <= 8 and layer.act_bits <= 8 for layer in profile.kernels)
        return peak_values(profile.steps, profile.widths) * (1 if self.integer or narrow else FLOAT_BYTES)
