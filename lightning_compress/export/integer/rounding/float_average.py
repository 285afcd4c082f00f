"""ExecuTorch's arithmetic: XNNPACK's, with average pooling in float32.

Its lowering has no integer average pooling: levels are read as float32, averaged, and rounded again.
"""

from __future__ import annotations

from typing import final

from torch import Tensor
from typing_extensions import override

from lightning_compress.export.integer.graph import Grid
from lightning_compress.export.integer.rounding.single import SingleRounding


@final
class FloatAverage(SingleRounding):
    """XNNPACK as ExecuTorch calls it."""

    @override
    def average(self, sums: Tensor, count: int, grid: Grid) -> Tensor:
        return (sums.double() / count).float().round().long()
