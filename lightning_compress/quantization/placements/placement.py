"""Base class of the placements: which tensors of a network are quantized, and which share a grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from lightning_compress.core.kinds import HasKind
from lightning_compress.quantization.quantizers.weight import WeightQuantizer
from lightning_compress.surgery.transforms import Transform

Make = Callable[[int], Transform]


class Placement(HasKind, ABC):
    """Attaches activation quantizers to a network."""

    @abstractmethod
    def tie(self, act_bits: Mapping[str, int], net: nn.Module, example: Any) -> dict[str, int]:
        """Return the bits with which layers end up that share a quantizer: the largest of them.

        Args:
            act_bits: layer -> bits of its input.
            net: the network; it is only read.
            example: one input batch.
        """

    @abstractmethod
    def attach(self, act_bits: Mapping[str, int], make: Make, net: nn.Module, example: Any) -> None:
        """Attach quantizers, in place.

        Args:
            act_bits: layer -> bits of its input, as :meth:`tie` returned them.
            make: ``bits -> quantizer``.
            net: the network.
            example: one input batch.

        Raises:
            CompressError: a tensor cannot be reached by a hook.
        """

    @abstractmethod
    def prepare_weight(self, quantizer: WeightQuantizer) -> None:
        """Change the levels of a weight quantizer before its scale is set, where the kernels ask for it."""
