"""Fit a network to its quantizers where no training follows that would: its weights first, then outputs of layers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_compress.core.profile import Profile
from lightning_compress.quantization.least_squares_rounding import round_by_least_squares
from lightning_compress.quantization.quantizers.quantizer import Quantizer
from lightning_compress.surgery.output_correction import correct_outputs
from lightning_compress.surgery.transforms import Transform


def fit_to_quantizers(
    net: nn.Module, profile: Profile, quantizers: Collection[Quantizer], examples: Sequence[Any]
) -> None:
    """Round weights by least squares and correct outputs of layers, in place.

    Args:
        net: with calibrated quantizers.
        profile: of ``net``.
        quantizers: those that are new.
        examples: input batches.

    Raises:
        CompressError: the inputs of a layer are not finite.
    """
    rounded = round_by_least_squares(net, quantizers, examples)
    exact: dict[Transform, Tensor | None] = {made: rounded.get(made) for made in quantizers}
    correct_outputs(net, profile, exact, examples)
