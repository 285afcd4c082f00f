"""Restart: nothing of the dense network's weights survives, and the student is trained anew.

Source: N2N (Ashok et al. 2018, arXiv 1709.06030): knowledge comes by distillation alone. Each module's own
``reset_parameters`` is called; an initialization that the network does itself, in its constructor, is not repeated.
Use it with a long training, or when most was removed; it breaks scores after a few steps, which then tell nothing.
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
class Restart(Initializer):
    """Fresh random weights everywhere."""

    @override
    def __call__(self, net: nn.Module, readers: Mapping[str, bool]) -> None:
        for module in net.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
