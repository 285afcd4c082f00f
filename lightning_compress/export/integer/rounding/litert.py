"""LiteRT's arithmetic: XNNPACK's, with hard swish and changes of the grid of its own.

A change of the grid uses one integer multiplier of 8 bits; hard swish is that of TFLite's own kernels. Found equal to
LiteRT 2.3.0 in every value (tests/test_integer_kernels.py).
"""

from __future__ import annotations

from typing import final

import numpy as np
from torch import Tensor
from typing_extensions import override

from lightning_compress.export.integer.graph import Grid
from lightning_compress.export.integer.rounding.activation_functions import hard_swish
from lightning_compress.export.integer.rounding.single import SingleRounding

CONVERT_BITS = 8


@final
class LiteRTRounding(SingleRounding):
    """XNNPACK as LiteRT calls it."""

    @override
    def hard_swish(self, levels: Tensor, grid: Grid, out: Grid) -> Tensor:
        return hard_swish(levels, grid, out)

    @override
    def requantize(self, levels: Tensor, grid: Grid, out: Grid) -> Tensor:
        factor = int(np.rint(np.ldexp(np.float32(grid.scale) / np.float32(out.scale), CONVERT_BITS)))
        return (levels * factor + (1 << (CONVERT_BITS - 1))) >> CONVERT_BITS
