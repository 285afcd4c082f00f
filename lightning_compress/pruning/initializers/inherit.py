"""Inherit: all layers keep their weights; those that got narrower start anew, from their own random initialization.

Ours: the paper (N2N, arXiv 1709.06030) starts its students anew. Use it when little was removed, and to
rank students after a few steps; it breaks where layers behind the removed ones meet inputs that they never saw: use
least_squares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import nn
from typing_extensions import override

from lightning_compress.pruning.initializers.initializer import Initializer


@final
@dataclass(frozen=True)
class Inherit(Initializer):
    """Weights of the dense network wherever they fit."""

    @override
    def __call__(self, net: nn.Module, readers: Mapping[str, bool]) -> None:
        for name, narrower in readers.items():
            if narrower:
                net.get_submodule(name).reset_parameters()
