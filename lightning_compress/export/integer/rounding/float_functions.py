"""ExecuTorch's arithmetic: XNNPACK's, with float32 between two roundings for hard swish and changes of the grid."""

from __future__ import annotations

from typing import final

from torch import Tensor
from typing_extensions import override

from lightning_compress.export.integer.graph import Grid
from lightning_compress.export.integer.rounding.rounding import Rounding
from lightning_compress.export.integer.rounding.single import SingleRounding


@final
class FloatFunctions(SingleRounding):
    """XNNPACK as ExecuTorch calls it."""

    @override
    def hard_swish(self, levels: Tensor, grid: Grid, out: Grid) -> Tensor:
        return Rounding.hard_swish(self, levels, grid, out)

    @override
    def requantize(self, levels: Tensor, grid: Grid, out: Grid) -> Tensor:
        return Rounding.requantize(self, levels, grid, out)
